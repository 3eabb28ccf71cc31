"""What writers say adds up to the logits of the untouched model, and patterns are those that `transformers` gives."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.lens import Lens, said_at_asked
from circuitgraph.forward.patterns import attention_patterns
from tests.circuitgraph.architectures.battery.case import Made, compiled_case, exact, prompts
from tests.circuitgraph.architectures.battery.families import CASES, LONG_ONES
from tests.oracles.uncast import uncast


def capped(own: Made, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(own.model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


BEHIND_AN_ACTIVATION = ("modernbert",)


@pytest.mark.parametrize("case", BEHIND_AN_ACTIVATION)
def test_an_output_head_behind_an_activation_is_refused(case: str) -> None:
    bound = exact(case).compiled.runnable.bound
    with pytest.raises(UnsupportedModelError, match="a map with an activation"):
        Lens.of(bound, torch.zeros(1, 24, dtype=torch.float64))


@pytest.mark.parametrize("case", [case for case in LONG_ONES if case.id not in BEHIND_AN_ACTIVATION])
@pytest.mark.parametrize("side", ["left", "none"])
def test_all_writers_and_the_biases_add_up_to_the_logits(case: str, side: str) -> None:
    own, (batch, _) = exact(case), prompts(side=side)
    with uncast(), torch.no_grad():
        theirs = own.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits.flatten(0, 1)[batch.predict_index]
        model = own.compiled.runnable
        said = said_at_asked(model, own.compiled.run_with_values(batch)[1], batch)
        assert len(said) == len(own.compiled.universe.writers) + 1
        lens = Lens.of(model.bound, said.sum(0))
        parts = lens.logits(said)
        assert float((capped(own, parts.sum(0) + lens.constant) - theirs).abs().max()) < 1e-5
        # No part of it is idle, and a scale of another run is no part of this one.
        assert float(parts.abs().amax((1, 2))[:-1].min()) > 1e-6
        if lens.norm.kind != "none":
            wrong = Lens.of(model.bound, said.sum(0) * 1.5).logits(said).sum(0) + lens.constant
            assert float((capped(own, wrong) - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize("case", LONG_ONES)
def test_patterns_are_those_of_the_eager_model(case: str) -> None:
    own, (batch, _) = compiled_case(CASES[case], attention="eager", dtype=torch.float64), prompts(side="left")
    real = batch.attention_mask.bool()
    with uncast(), torch.no_grad():
        theirs = own.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids,
            output_attentions=True,
        ).attentions  # fmt: skip
        ran = own.compiled.run_with_values(batch)[1]
        for layer, pattern in enumerate(theirs):
            ours = attention_patterns(own.compiled.runnable, ran, batch, layer).transpose(0, 1)
            seen = pattern[..., : ours.shape[-1]].transpose(1, 2)[real]
            assert float((ours.transpose(1, 2)[real] - seen).abs().max()) < 1e-6
