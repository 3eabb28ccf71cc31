"""The figure of a causal trace: pictures hold the shares, place by layer; what is not in the table is hatched."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import causal_trace_figure
from circuitgraph.errors import ConfigurationError, UnknownNameError


def trace(widths=(0, 2)) -> pd.DataFrame:
    rows = [
        (corruption, kind, place, width, layer, (layer + width) / 10, -0.1)
        for corruption in ("null_token", "noise")
        for kind in ("attention", "mlp")
        for place in ("last_subject", "last")
        for width in widths
        for layer in (4, 2)
    ]
    columns = ["corruption", "kind", "place", "width", "layer", "probability_share", "kl_share"]
    return pd.DataFrame(rows, columns=columns)


def test_pictures_hold_the_shares() -> None:
    figure = causal_trace_figure(trace(), width=2, n_layers=6)
    panels = [axes for axes in figure.axes if axes.images and axes.get_title()]
    titles = ["attention, null token", "MLP, null token", "attention, noise", "MLP, noise"]
    assert [axes.get_title() for axes in panels] == titles
    for axes in panels:
        shown = axes.images[0].get_array()
        assert np.ma.getmaskarray(shown).all(0).tolist() == [True, True, False, True, False, True]
        assert shown[:, [2, 4]].tolist() == [[0.4, 0.6], [0.4, 0.6]]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["last subject", "last"]
    assert not any(text.get_text() for text in panels[1].get_yticklabels())
    assert [text.get_text() for text in panels[2].get_xticklabels()] == list("012345")
    assert [axes.get_xlabel() for axes in panels] == ["", "", "layer ± 2", "layer ± 2"]
    assert causal_trace_figure(trace(), width=0).axes[2].get_xlabel() == "layer"


def test_the_narrowest_windows_by_default_and_another_measure() -> None:
    shown = causal_trace_figure(trace(), measure="kl").axes[0].images[0]
    assert np.ma.compressed(shown.get_array()).tolist() == [-0.1] * 4 and shown.colorbar is None
    assert causal_trace_figure(trace()).axes[0].images[0].get_array()[0, 4] == 0.4


def test_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown measure of a causal trace 'logits'"):
        causal_trace_figure(trace(), measure="logits")
    with pytest.raises(ConfigurationError, match="no windows of 1 layers on either side; it has widths 0, 2"):
        causal_trace_figure(trace(), width=1)
    with pytest.raises(ConfigurationError, match="no windows"):
        causal_trace_figure(trace().iloc[:0])
    with pytest.raises(ConfigurationError, match="several rows for one window .corruption null_token, .*, layer 4"):
        causal_trace_figure(pd.concat([trace(), trace()]))
    with pytest.raises(ConfigurationError, match="n_layers is 4, and the table has layer 4"):
        causal_trace_figure(trace(), n_layers=4)
    for limits in ((1.0, 0.5), (0.0, float("nan")), (0.0, float("inf"))):
        with pytest.raises(ConfigurationError, match="limits: expected the lower and the upper end of the colours"):
            causal_trace_figure(trace(), limits=limits)
    with pytest.raises(ConfigurationError, match="the table has no column 'place'"):
        causal_trace_figure(trace().drop(columns="place"))
