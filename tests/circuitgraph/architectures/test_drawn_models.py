"""Logits and gradients of any small model and graph, against the definition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuitgraph.forward.situations import BothWays, Edits, Situation, drawn_edits, situations
from tests.circuitgraph.forward.test_masked_forward import check_edited_logits, check_logits
from tests.circuitgraph.forward.test_masked_gradients import check_gradients, check_log_alpha
from tests.oracles import definition as oracle
from tests.oracles.cases import FAMILIES, ModelMakers, SmallModel, small_models


def check_small_model(makers: ModelMakers, small: SmallModel, situation: Situation, edits: Edits) -> None:
    """Its graph as it is, and edited."""
    compiled = makers.compile_small(small)
    both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
    check_logits(both, both.gates, both.gates)
    check_edited_logits(both, edits)
    check_gradients(both)
    check_log_alpha(both, edits)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), situation=situations(), edits=drawn_edits())
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
def test_any_small_model_and_graph(
    family: str, tiny_gpt2, tiny_llama, data: st.DataObject, situation: Situation, edits: Edits
) -> None:
    check_small_model(ModelMakers(tiny_gpt2, tiny_llama), data.draw(small_models(family)), situation, edits)


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), situation=situations(), edits=drawn_edits())
@settings(max_examples=250, deadline=None, database=None)
def test_many_small_models_and_graphs(
    family: str, tiny_gpt2, tiny_llama, data: st.DataObject, situation: Situation, edits: Edits
) -> None:
    check_small_model(ModelMakers(tiny_gpt2, tiny_llama), data.draw(small_models(family)), situation, edits)
