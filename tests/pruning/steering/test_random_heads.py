"""As many heads drawn at random: what is drawn, and that each draw is judged as an intervention of those heads."""

from __future__ import annotations

import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.intervention import Intervention
from pruning.steering.judged import MEASURES, judge_intervention
from pruning.steering.random_heads import judge_random_heads
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5] * 4, wrong=True)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2):
    return compile_model(tiny_gpt2(), verify=False)


def test_every_draw_is_an_intervention_of_its_heads(compiled):
    found = judge_random_heads(compiled, 2, PROMPTS, n_draws=3, seed=1)
    assert list(found["draw"]) == [0, 1, 2] and found["heads"].nunique() > 1
    for _, row in found.iterrows():
        names = row["heads"].split()
        assert len(set(names)) == 2 and all(".h" in name for name in names)
        cut = Intervention.from_writers(compiled.universe, dict.fromkeys(names, -1.0))
        alone = judge_intervention(compiled, cut, PROMPTS, strengths=(1.0,))
        assert list(row[list(MEASURES)]) == pytest.approx(alone.loc[0, list(MEASURES)].tolist(), abs=1e-6)


def test_a_seed_makes_the_same_draws(compiled):
    one, same, other = (judge_random_heads(compiled, 2, PROMPTS, n_draws=4, seed=seed) for seed in (0, 0, 1))
    assert one.equals(same) and list(one["heads"]) != list(other["heads"])


def test_no_draw_gives_an_empty_table(compiled):
    assert list(judge_random_heads(compiled, 2, PROMPTS, n_draws=0).columns) == ["draw", "heads", *MEASURES]


@pytest.mark.parametrize(("n_heads", "n_draws", "told"), [(7, 1, "from 0 to 6"), (-1, 1, "got -1"), (1, -1, "n_draws")])
def test_impossible_draws_are_refused(compiled, n_heads, n_draws, told):
    with pytest.raises(ConfigurationError, match=told):
        judge_random_heads(compiled, n_heads, PROMPTS, n_draws=n_draws)
