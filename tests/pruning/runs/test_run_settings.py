"""Numbers of a run are checked before any work, from Python as from the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from circuitgraph.errors import ConfigurationError
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.runs.run_settings import RunSettings
from pruning.whole_numbers import whole_number

SETTINGS = RunSettings(
    recipe=recipe_named("quick"), objective="kl", ablation="zero", seed=0, splits=("test",), n_random=1,
    n_random_prompts=2, n_effects=3, cache_bytes=0, disk_cache=None, teacher_top_k=None, micro_batch=None,
    recompute=False, replay=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("n_random", -1),
        ("n_random", True),
        ("n_random_prompts", 0),
        ("n_effects", -1),
        ("cache_bytes", -1),
        ("micro_batch", 0),
        ("teacher_top_k", 0),
    ],
)
def test_numbers_that_make_no_sense_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number of at least"):
        replace(SETTINGS, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.5, "1", None, np.nan, np.float64(2), [1]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="seed must be a whole number of at least 0; got"):
        whole_number("seed", value)


def test_numpys_integers_become_pythons() -> None:
    assert json.dumps([whole_number("seed", np.int64(3)), whole_number("micro_batch", np.uint8(2))]) == "[3, 2]"
