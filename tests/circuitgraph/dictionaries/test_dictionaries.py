"""Dictionaries in SAELens's layout: what they encode by hand, and vectors taken apart as writers of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from circuitgraph.dictionaries.saelens import CONFIG, WEIGHTS, load_dictionary
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.forward.vectors import Vector
from tests.oracles.cases import ModelMakers, pair_of_batches

WIDTH, LATENTS = 12, 20


def write(folder: Path, kind: str, *, seed: int = 0, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    """A random dictionary in the layout of SAELens 6; without `metadata` in that of its earlier versions."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    weights = {"W_enc": drawn(WIDTH, LATENTS), "b_enc": 0.3 * drawn(LATENTS), "W_dec": drawn(LATENTS, WIDTH)}
    weights["b_dec"] = drawn(WIDTH)
    if kind == "jumprelu":
        weights["threshold"] = drawn(LATENTS).abs()
    save_file(weights | (tensors or {}), folder / WEIGHTS)
    values: dict[str, Any] = {
        "architecture": kind, "d_in": WIDTH, "d_sae": LATENTS, "dtype": "float64", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.1.hook_resid_pre", "model_name": "tiny", "hook_head_index": None},
        **({"k": 3} if kind == "topk" else {}), **config,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in values.items() if value != "left out"}))
    return folder


def by_hand(folder: Path, x: list[float], kind: str, *, centred: bool = True, rescaled: bool = False) -> list[float]:
    """Activations, latent after latent."""
    from safetensors.torch import load_file

    parts = {name: tensor.tolist() for name, tensor in load_file(folder / WEIGHTS).items()}
    length = [sum(value**2 for value in row) ** 0.5 if rescaled else 1.0 for row in parts["W_dec"]]
    inputs = [value - shift * centred for value, shift in zip(x, parts["b_dec"], strict=True)]
    before = [
        (sum(inputs[i] * parts["W_enc"][i][latent] for i in range(WIDTH)) + parts["b_enc"][latent]) * length[latent]
        for latent in range(LATENTS)
    ]
    if kind == "jumprelu":
        return [max(value, 0) if value > parts["threshold"][latent] else 0.0 for latent, value in enumerate(before)]
    largest = sorted(range(LATENTS), key=lambda latent: -before[latent])[: 3 if kind == "topk" else LATENTS]
    return [max(value, 0) if latent in largest else 0.0 for latent, value in enumerate(before)]


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("centred", [True, False])
def test_activations_are_those_by_hand(tmp_path: Path, kind: str, centred: bool) -> None:
    folder = write(tmp_path / "d", kind, apply_b_dec_to_input=centred)
    found, x = load_dictionary(folder), torch.linspace(-2, 2, WIDTH, dtype=torch.float64)
    got = found.encode(x)
    np.testing.assert_allclose(got, by_hand(folder, x.tolist(), kind, centred=centred), atol=1e-12)
    assert 0 < int((got > 0).sum()) < LATENTS
    assert (found.layer, found.width, found.n_latents) == (1, WIDTH, LATENTS)
    want = sum(float(a) * found.decoder[latent] for latent, a in enumerate(got)) + found.decoder_bias
    torch.testing.assert_close(found.decode(got), want)
    torch.testing.assert_close(found.encode(torch.stack([x, 2 * x]))[0], got)


OLD: dict[str, Any] = {"metadata": "left out", "activation_fn_str": "topk", "k": "left out"}


@pytest.mark.parametrize(
    "named",
    [
        {"hook_name": "blocks.0.hook_resid_post", "hook_layer": 0},
        {"hook_point": "blocks.0.hook_resid_post", "hook_point_layer": 0, "hook_point_head_index": None},
        {"meta": {"hook_name": "blocks.0.hook_resid_post"}},
    ],
)
def test_older_files_say_the_same(tmp_path: Path, named: dict) -> None:
    """`scaling_factor` was written for a while though nothing was scaled."""
    ones = {"scaling_factor": torch.ones(LATENTS)}
    folder = write(tmp_path / "d", "standard", activation_fn_kwargs={"k": 3}, tensors=ones, **OLD, **named)
    found = load_dictionary(folder)
    assert (found.kind, found.k, found.layer) == ("topk", 3, 1)


def test_rows_of_any_length_may_be_ranked_as_if_they_had_a_length_of_1(tmp_path: Path) -> None:
    """What SAELens 6 trains by default: activations are ranked, and given, times the length of the decoder's row."""
    folder = write(tmp_path / "d", "topk", rescale_acts_by_decoder_norm=True)
    found, x = load_dictionary(folder), torch.linspace(-2, 2, WIDTH, dtype=torch.float64)
    wanted = by_hand(folder, x.tolist(), "topk", rescaled=True)
    np.testing.assert_allclose(found.encode(x), wanted, atol=1e-12)
    plain = load_dictionary(write(tmp_path / "plain", "topk"))
    rows = plain.decoder / plain.decoder.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        found.decode(found.encode(x)), torch.tensor(wanted, dtype=torch.float64) @ rows + plain.decoder_bias
    )
    assert (found.encode(x) > 0).tolist() != (plain.encode(x) > 0).tolist(), "the ranking has to differ to show"


def test_a_centred_models_dictionary_takes_the_mean_off(tmp_path: Path) -> None:
    """TransformerLens can load a model so that its stream has a mean of 0, as that of SAELens's first GPT-2 ones."""
    about = {"hook_name": "blocks.1.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    told = load_dictionary(write(tmp_path / "told", "standard", metadata=about))
    folder = write(tmp_path / "plain", "standard")
    x = torch.linspace(-1, 3, WIDTH, dtype=torch.float64)
    wanted = by_hand(folder, (x - 1).tolist(), "standard")
    for found in (told, load_dictionary(folder, less_mean=True)):
        np.testing.assert_allclose(found.encode(x), wanted, atol=1e-12)
        parts = found.split(Vector(name="v@1", value=x), 3)
        torch.testing.assert_close(sum(part.value for part in parts), x)
    assert not np.allclose(load_dictionary(folder).encode(x), wanted)


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("gated", {}, "architecture is 'gated'; known are standard, jumprelu and topk"),
        ("standard", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ("standard", {"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ("standard", {"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm is known of topk alone"),
        ("topk", {"rescale_acts_by_decoder_norm": 1}, "rescale_acts_by_decoder_norm has to be true or false; got 1"),
        ("standard", {"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input has to be true or false; got 'false'"),
        ("standard", {"d_in": 13}, r"W_dec is \[20, 12\], and cfg.json says d_sae 20 and d_in 13"),
        ("standard", {"hook_layer": 3}, "hook_name is 'blocks.1.hook_resid_pre', and hook_layer is 3"),
        ("standard", {"metadata": {"hook_name": "blocks.1.hook_resid_pre\n"}}, "hook_name is 'blocks.1.hook"),
        ("standard", {"model_from_pretrained_kwargs": {"revision": "step1"}}, "kwargs has revision, which is not"),
        ("topk", {"k": "left out"}, "topk needs a whole number k"),
        ("topk", {"k": 21}, "a k from 1 to 20"),
        ("standard", {"activation_fn_str": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        ("standard", {"metadata": {"hook_name": "blocks.1.hook_mlp_out"}}, "hook_name is 'blocks.1.hook_mlp_out'"),
        (
            "standard",
            {"tensors": {"scaling_factor": 2 * torch.ones(LATENTS)}},
            "expected the tensors .*scaling_factor",
        ),
        ("standard", {"tensors": {"b_enc": torch.ones(3)}}, r"b_enc has to be \[20\] to fit W_dec; got \[3\]"),
        (
            "standard",
            {"tensors": {"b_dec": torch.full((WIDTH,), torch.nan)}},
            "b_dec holds .* not finite",
        ),
        ("standard", {"tensors": {"b_dec": torch.ones(WIDTH, dtype=torch.int64)}}, "b_dec holds .*int64"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, kind: str, config: dict, said: str) -> None:
    folder = write(tmp_path / "d", kind, **config)
    with pytest.raises(CircuitFormatError, match=said):
        load_dictionary(folder)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", "standard")
    (folder / WEIGHTS).write_bytes(b"\x80\x04pickle")
    with pytest.raises(CircuitFormatError, match="cannot be read as safetensors"):
        load_dictionary(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CircuitFormatError, match=r"cfg\.json cannot be read"):
        load_dictionary(folder)


# ---------------------------------------------------------------- vectors taken apart


def test_the_parts_together_are_the_vector(tmp_path: Path) -> None:
    found = load_dictionary(write(tmp_path / "d", "standard"))
    vector = Vector(name="task@1", value=torch.linspace(-2, 2, WIDTH, dtype=torch.float64), at=-1)
    parts = found.split(vector, 3)
    activations = found.encode(vector.value)
    said = activations * found.decoder.norm(dim=1)
    assert [part.name for part in parts] == [
        *(f"task_f{latent}@1" for latent in said.argsort(descending=True)[:3].tolist()), "task_error@1",
    ]  # fmt: skip
    assert {part.at for part in parts} == {-1}
    torch.testing.assert_close(sum(part.value for part in parts), vector.value, atol=1e-12, rtol=0)
    latent = int(parts[0].name.removeprefix("task_f").partition("@")[0])
    torch.testing.assert_close(parts[0].value, activations[latent] * found.decoder[latent])
    # With all that are on, the error is the error of the reconstruction, and the decoder's bias.
    everything = found.split(vector, LATENTS)
    assert len(everything) == int((activations > 0).sum()) + 1
    torch.testing.assert_close(everything[-1].value, vector.value - found.decode(activations) + found.decoder_bias)
    assert [part.name for part in found.split(vector, [7, 2])] == ["task_f7@1", "task_f2@1", "task_error@1"]
    for wrong, said in (([20], r"\[20\]"), ([3, 3], r"\[3, 3\]"), (-2, r"\[-2\]")):
        with pytest.raises(ConfigurationError, match=f"different ones from 0 to 19; got {said}"):
            found.split(vector, wrong)


def test_dictionaries_of_another_width_or_layer_are_refused(tmp_path: Path) -> None:
    found = load_dictionary(write(tmp_path / "d", "standard"))
    with pytest.raises(ConfigurationError, match="encodes 12 numbers; got 5"):
        found.split(Vector(name="v@1", value=torch.ones(5)))
    with pytest.raises(ConfigurationError, match="before layer 1, and v@0 is added before layer 0"):
        found.split(Vector(name="v@0", value=torch.ones(WIDTH)))


def test_latents_are_writers_with_edges_of_their_own(tmp_path: Path, tiny_gpt2, tiny_llama) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    assert compiled.shape.d_model == WIDTH
    found = load_dictionary(write(tmp_path / "d", "topk"))
    vector = Vector(name="v@1", value=torch.linspace(-2, 2, WIDTH, dtype=torch.float64), at="asked")
    whole, apart = compiled.with_vectors([vector]), compiled.with_vectors(found.split(vector, 2))
    clean, corrupted = pair_of_batches(lengths=[5, 3], side="left", n_asked=1, n_tokens=29, seed=1)
    torch.testing.assert_close(apart.logits(clean), whole.logits(clean), atol=1e-10, rtol=1e-10)
    values = apart.run_with_values(corrupted, vectors=False)[1]
    gates = torch.ones(apart.universe.n_edges, dtype=torch.float64)
    torch.testing.assert_close(apart.masked(gates, clean, values).logits, whole.logits(clean), atol=1e-10, rtol=1e-10)
    # Without the edges of one latent: the model with the vector less what that latent says.
    latent = apart.vectors[0]
    gates[torch.from_numpy(apart.universe.writer_of_edge == apart.universe.writers.index(latent.name))] = 0
    less = compiled.with_vectors([Vector(name="v@1", value=vector.value - latent.value, at="asked")])
    got = apart.masked(gates, clean, values).logits
    torch.testing.assert_close(got, less.logits(clean), atol=1e-10, rtol=1e-10)
    assert (got - whole.logits(clean)).abs().max() > 1e-3
