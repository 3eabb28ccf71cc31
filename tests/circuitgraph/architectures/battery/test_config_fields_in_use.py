"""Every field of every family's config: understood and put to another value, refused, or shown to change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuitgraph.architectures import family_of
from circuitgraph.errors import UnsupportedModelError
from tests.circuitgraph.architectures.battery.case import Case, Toggle, compiled_case, differs_by, prompts
from tests.circuitgraph.architectures.battery.families import CASES, QUICK
from tests.oracles.hooks import call

pytestmark = pytest.mark.slow

# Names, tokens, training, and what is put out beside the logits or instead of them.
ELSEWHERE = frozenset(
    """_name_or_path architectures bos_token_id chunk_size_feed_forward dtype eos_token_id id2label initializer_range
    is_decoder is_encoder_decoder label2id model_type output_attentions output_hidden_states pad_token_id problem_type
    return_dict tie_word_embeddings transformers_version use_cache init_std output_router_logits router_aux_loss_coef
    router_jitter_noise summary_type summary_use_proj summary_activation summary_proj_to_labels classifier_pooling
    cls_token_id sep_token_id""".split()
)
# What older files have instead of `rope_parameters` and of `layer_types`.
OLDER = frozenset(
    """rope_theta rope_scaling rotary_pct rotary_emb_base global_rope_theta local_rope_theta
    global_attn_every_n_layers""".split()
)
# Made of other fields: of `attention_types` and of `num_experts`.
DERIVED = frozenset({"attention_layers", "num_local_experts"})
TOGGLES = [
    pytest.param(case, name, id=f"{case}-{name}", marks=() if case in QUICK else pytest.mark.full)
    for case, own in CASES.items()
    for name in own.toggles
]
# Of which `transformers` makes others that are looked at, or in which nothing is called wrong.
UNCHECKED = frozenset({"rope_parameters", "max_window_layers", "no_rope_layer_interval", "attention_types"})
FIRST = [case for case, own in CASES.items() if not own.kind]


def is_dropped(name: str) -> bool:
    """Whether a field is of dropout, which does nothing in evaluation mode."""
    return name.endswith(("dropout", "pdrop"))


def before_and_after(case: Case, name: str) -> tuple[Case, Case]:
    """The case with a field as it is and with its other value; what the other value needs is set in both."""
    toggle = case.toggles[name]
    if not isinstance(toggle, Toggle):
        return case, case.changed(**{name: toggle})
    before = case.changed(**toggle.beside)
    return before, before.changed(**{name: toggle.value, **toggle.after})


@pytest.mark.parametrize(("case", "name"), TOGGLES)
def test_an_understood_field_at_another_value(case: str, name: str) -> None:
    """The graph is still the model, and the model another one: the field was in use."""
    before, after = before_and_after(CASES[case], name)
    changed = compiled_case(after)
    clean, _ = prompts(side="none")
    clean.input_ids.remainder_(41)  # the smaller vocabulary
    theirs = call(changed.model, clean)
    assert differs_by(changed.compiled.logits(clean), theirs) < 1e-4
    ours = call(before.make(), clean)
    assert ours.shape != theirs.shape or float((ours - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize("case", FIRST)
def test_every_other_field_is_refused_or_changes_nothing(case: str) -> None:
    own, family = CASES[case], family_of(CASES[case].family)
    plain = own.make_config()
    clean, _ = prompts()
    logits = call(own.make(), clean)
    accepted = []
    of_kinds = {name for other in CASES.values() if other.family == own.family for name in other.toggles}
    for name, value in plain.to_dict().items():
        if name in of_kinds | ELSEWHERE | DERIVED or is_dropped(name):
            continue
        config = own.make_config()
        object.__setattr__(config, name, own.refused.get(name, another(value)))
        if name in own.harmless:
            family.check_config(config)
            assert torch.equal(call(own.changed(**{name: another(value)}).make(), clean), logits), name
            continue
        try:
            family.check_config(config)
        except UnsupportedModelError as error:
            if name in str(error):
                continue
        accepted.append(name)
    assert accepted == [], accepted
    for name in own.toggles:
        assert hasattr(plain, name) or name in OLDER, name


def another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return "relu"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return 7 if value is None else [value]


@pytest.mark.parametrize("case", FIRST)
def test_all_values_that_do_not_fit_are_in_one_message(case: str) -> None:
    own, family = CASES[case], family_of(CASES[case].family)
    config = own.make_config()
    wrong = [name for name in own.toggles if hasattr(config, name) and name not in UNCHECKED | OLDER]
    if "use_bidirectional_attention" in own.refused:
        wrong = [name for name in wrong if name != "sliding_window"]  # of which `to_dict` makes another
    for name in wrong:
        object.__setattr__(config, name, {"no": "value"})
    for name, value in own.refused.items():
        object.__setattr__(config, name, value)
    with pytest.raises(UnsupportedModelError) as caught:
        family.check_config(config)
    assert [name for name in [*wrong, *own.refused] if f"{name}=" not in str(caught.value)] == []


@pytest.mark.parametrize("case", FIRST)
def test_all_fields_that_are_unknown_are_in_one_message(case: str) -> None:
    config = CASES[case].make_config()
    for name in ("use_rotors", "n_loops", "scale"):
        object.__setattr__(config, name, 3)
    with pytest.raises(UnsupportedModelError, match="fields .* are not understood") as caught:
        family_of(CASES[case].family).check_config(config)
    assert all(f"{name}=3" in str(caught.value) for name in ("use_rotors", "n_loops", "scale"))


@pytest.mark.parametrize(
    ("name", "value"), [("alibi", False), ("qk_ln", True), ("alibi_bias_max", 16), ("clip_qkv", "no"), ("strange", 3)]
)
def test_settings_of_mpts_attention_that_are_not_gone_by(name: str, value: object) -> None:
    config = CASES["mpt"].make_config()
    object.__setattr__(config, "attn_config", {"clip_qkv": None, name: value})
    with pytest.raises(UnsupportedModelError, match=rf"attn_config.*{name}"):
        family_of("mpt").check_config(config)


def test_windows_of_smollm3_go_by_the_types_of_layers() -> None:
    """As its masks do, whatever `use_sliding_window` says. The parity gate does not see windows of 64 or more."""
    own = compiled_case(CASES["smollm3"].changed(use_sliding_window=False))
    clean, _ = prompts()
    assert differs_by(own.compiled.logits(clean), call(own.model, clean)) < 1e-4
    everywhere = compiled_case(CASES["smollm3"].changed(layer_types=["full_attention"] * 3))
    assert differs_by(everywhere.compiled.logits(clean), call(own.model, clean)) > 0.01
