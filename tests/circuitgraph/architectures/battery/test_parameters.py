"""Weights counted from a config, against those of the model that `transformers` makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from circuitgraph.architectures import family_of, supported_model_types
from circuitgraph.architectures.config_fields import _ACTIVATIONS
from circuitgraph.architectures.parameters import n_parameters
from tests.circuitgraph.architectures.battery.case import Case
from tests.circuitgraph.architectures.battery.families import CASES, EVERY
from tests.circuitgraph.architectures.battery.test_config_fields_in_use import before_and_after


def made_of(case: Case) -> nn.Module:
    with torch.device("meta"):
        return case.loads.from_config(case.make_config())


def counted(case: Case) -> int | None:
    config = case.make_config()
    return n_parameters(config, family_of(case.family).shape(config))


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_those_of_the_model(name: str) -> None:
    """As the case has it, with a head of its own and with the embedding's, and with each field at another value."""
    own = CASES[name]
    cases = {"as it is": own, **{f"tied={tied}": own.changed(tie_word_embeddings=tied) for tied in (True, False)}}
    cases |= {field: before_and_after(own, field)[1] for field in own.toggles}
    found = {what: counted(case) for what, case in cases.items()}
    expected = {what: sum(weights.numel() for weights in made_of(case).parameters()) for what, case in cases.items()}
    assert found == expected
    assert found["tied=True"] != found["tied=False"]


def test_families_of_transformers_are_all_counted() -> None:
    assert {case.family for case in CASES.values()} == set(supported_model_types()) - {"tracr"}


def test_activations_that_are_not_looked_up_exist() -> None:
    assert set(ACT2FN) >= _ACTIVATIONS
