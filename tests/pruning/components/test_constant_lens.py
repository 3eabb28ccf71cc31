"""The optimal-constant lens: against masked runs and the residual stream by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph import compile_model, load_model
from circuitgraph.errors import ConfigurationError
from pruning import constant_lens, load_task
from pruning.components.lens import edges_up_to


@pytest.fixture(scope="module")
def induction():
    loaded = load_model("induction-neox")
    sizes = {"train": 12, "validation": 0, "test": 3}
    return loaded, compile_model(loaded, verify=False), load_task("induction", loaded.tokenizer, sizes=sizes)


@pytest.mark.slow
def test_rows_by_hand(induction) -> None:
    loaded, compiled, task = induction
    train, test = task.split("train"), task.split("test")
    rows = constant_lens(compiled, train, test, [0, 1], steps=12).set_index("layer")
    assert rows["n_heads_cut"].tolist() == [4, 0]
    assert rows.loc[1, ["optimal", "mean", "zero", "logit_lens"]].abs().max() < 1e-5  # nothing is cut
    gates = torch.ones(compiled.universe.n_edges)
    for name in ("a1.h0->logits", "a1.h1->logits", "a1.h2->logits", "a1.h3->logits"):  # blocks are parallel
        gates[compiled.universe.edge_index(*name.split("->"))] = 0
    assert np.array_equal(edges_up_to(compiled.universe, 0), gates.bool().numpy())
    values = compiled.ablation_values("zero")
    zero, lens = [], []
    for prompt in range(len(test)):
        ids = torch.from_numpy(test.clean_ids[prompt])[None]
        with torch.no_grad():
            ran = loaded.model(input_ids=ids, output_hidden_states=True)
            full = ran.logits[0, -1].double().log_softmax(-1)
            early = loaded.model.gpt_neox.final_layer_norm(ran.hidden_states[1][0, -1])  # behind layer 0
            early = loaded.model.get_output_embeddings()(early).double().log_softmax(-1)
            cut = compiled.masked(gates, test.batch([prompt]).clean, values).logits[0].double().log_softmax(-1)
        zero.append(float((full.exp() * (full - cut)).sum()))
        lens.append(float((full.exp() * (full - early)).sum()))
    assert rows.loc[0, "zero"] == pytest.approx(np.mean(zero), rel=1e-4)
    assert rows.loc[0, "logit_lens"] == pytest.approx(np.mean(lens), rel=1e-4)
    assert rows.loc[0, "zero_sd"] == pytest.approx(np.std(zero), rel=1e-3)
    on_train = constant_lens(compiled, train, train, [0], steps=12).loc[0]
    assert on_train["optimal"] < on_train["mean"] - 1e-3


def test_refused(induction) -> None:
    _, compiled, task = induction
    train = task.split("train")
    for layers, told in (([2], "got 2"), ([], "got none")):
        with pytest.raises(ConfigurationError, match=told):
            constant_lens(compiled, train, train, layers)
    with pytest.raises(ConfigurationError, match=r"needs some of either; got \d+ and 0"):
        constant_lens(compiled, train, train.subset([]), [0])
