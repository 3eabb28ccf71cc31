"""Options that become settings: several target sparsities in one."""

from __future__ import annotations

import pytest

from circuitgraph.cli.option_groups import MethodOptions
from circuitgraph.errors import ConfigurationError


class TestSeveralSparsities:
    def test_they_take_the_recipe_that_ranks_for_all(self):
        chosen = MethodOptions(target_sparsity="0.97,0.9,0.99").chosen()
        assert chosen == {"recipe": "nested", "front": (0.97, 0.9, 0.99), "recipe.target_sparsity": 0.97}

    def test_a_named_recipe_stays(self):
        chosen = MethodOptions(target_sparsity="0.97,0.9", recipe="paper-gpt2").chosen()
        assert chosen["recipe"] == "paper-gpt2" and chosen["front"] == (0.97, 0.9)

    def test_one_is_as_ever(self):
        assert MethodOptions(target_sparsity="0.9").chosen() == {"recipe.target_sparsity": 0.9}

    @pytest.mark.parametrize("text", ["", "0.9,", "much", "0.9;0.95"])
    def test_what_is_no_number_is_refused(self, text):
        with pytest.raises(ConfigurationError, match="--target-sparsity"):
            MethodOptions(target_sparsity=text).chosen()
