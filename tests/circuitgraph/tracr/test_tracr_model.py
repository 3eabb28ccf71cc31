"""TracrModel: the programs' answers, padding, many heads, and no side effects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.tracr.loading import LoadedTracr, load_tracr
from circuitgraph.tracr.model import TracrConfig, TracrModel
from circuitgraph.tracr.programs import get_program, program_names


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module", params=program_names())
def loaded(request: pytest.FixtureRequest, dtype: torch.dtype) -> LoadedTracr:
    return load_tracr(f"tracr:{request.param}", dtype=dtype)


def padded(loaded: LoadedTracr, *, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Every prompt of the program in one batch, padded on one side."""
    rows, masks = [], []
    width = loaded.model.config.n_positions
    for tokens in get_program(loaded.name).inputs():
        ids = loaded.tokenizer.encode_tokens(tokens)
        gap = [loaded.tokenizer.pad_token_id] * (width - len(ids))
        rows.append(gap + ids if side == "left" else ids + gap)
        real = [1] * len(ids)
        masks.append([0] * len(gap) + real if side == "left" else real + [0] * len(gap))
    return torch.tensor(rows), torch.tensor(masks)


def test_answers_equal_plain_python_on_every_prompt(loaded: LoadedTracr) -> None:
    ids, mask = padded(loaded, side="left" if loaded.model.dtype == torch.float32 else "right")
    with torch.no_grad():
        logits = loaded.model(ids, attention_mask=mask).logits
    assert logits.dtype == loaded.model.dtype
    said, expected = [], []
    for row, real, tokens in zip(logits.double(), mask.bool(), get_program(loaded.name).inputs(), strict=True):
        for columns, answer in zip(row[real][1:], get_program(loaded.name).outputs(tokens), strict=True):
            if answer is not None:
                said.append(columns)
                expected.append(columns_of(answer, loaded))
    # Attention leaks exp(-100 / sqrt(d_head)), 5.4e-7 in `reverse`, more where heads are wider; the rest is rounding.
    leak = {"sort": 5e-6, "sort-freq": 1e-4}.get(get_program(loaded.name).name, 1e-6)
    rounding = 5e-6 if loaded.model.dtype == torch.float32 else 0
    torch.testing.assert_close(torch.stack(said), torch.stack(expected), atol=leak + rounding, rtol=0)


def columns_of(answer: str | float, loaded: LoadedTracr) -> torch.Tensor:
    """An answer as the logits should have it."""
    if loaded.model.config.output == "numeric":
        return torch.tensor([answer], dtype=torch.float64)
    return torch.eye(loaded.model.config.d_out, dtype=torch.float64)[loaded.tokenizer.output_id(str(answer))]


def test_padding_changes_nothing(loaded: LoadedTracr) -> None:
    tokens = get_program(loaded.name).tokens[:2]
    ids = loaded.tokenizer.encode_tokens(tokens)
    pad = loaded.tokenizer.pad_token_id
    alone = loaded.model(torch.tensor([ids])).logits[0]
    left = loaded.model(torch.tensor([[pad, pad, *ids]]), attention_mask=torch.tensor([[0, 0, 1, 1, 1]])).logits[0]
    right = loaded.model(torch.tensor([[*ids, pad, pad]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])).logits[0]
    torch.testing.assert_close(left[2:], alone, atol=5e-6, rtol=0)
    torch.testing.assert_close(right[:3], alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "prompt", "positions", "answers"),
    [
        # in the order of the positions the prompt reads 2 1 3, backwards 3 1 2
        ("reverse", "123", [0, 2, 1, 3], [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        # in the order of the positions it reads x x a
        ("xproportion", "axx", [0, 3, 2, 1], [[2 / 3], [1], [1]]),
    ],
)
def test_given_position_ids_are_used(name: str, prompt: str, positions: list[int], answers: list[list[float]]) -> None:
    loaded = load_tracr(name)
    ids = torch.tensor([loaded.tokenizer.encode_tokens(prompt)])
    logits = loaded.model(ids, position_ids=torch.tensor([positions])).logits
    torch.testing.assert_close(logits[0, 1:], torch.tensor(answers).float(), atol=1e-6, rtol=0)
    counted = loaded.model(ids, position_ids=torch.tensor([[0, 1, 2, 3]])).logits
    assert torch.equal(counted, loaded.model(ids).logits)


def tiny_config(*, causal: bool = False) -> TracrConfig:
    return TracrConfig(
        program="tiny", n_layers=2, n_heads=2, d_head=3, d_model=5, d_mlp=4, n_positions=6, d_out=2,
        output="categorical", tokens=("a", "BOS", "pad"), bos_token="BOS", pad_token="pad",
        output_symbols=("x", "y"), residual_labels=tuple("abcde"), causal=causal,
    )  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_many_heads_with_biases_agree_with_a_loop_over_heads_and_positions(causal: bool) -> None:
    model = TracrModel(tiny_config(causal=causal)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    ids = [1, 0, 0, 0]
    x = w["tok_embed.weight"][ids] + w["pos_embed.weight"][:4]
    for layer in range(2):
        prefix = f"blocks.{layer}"
        q, k, v = (x @ w[f"{prefix}.attn.{p}.weight"].T + w[f"{prefix}.attn.{p}.bias"] for p in "qkv")
        attended = np.zeros((4, 6))
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            for t in range(4):
                seen = range(t + 1) if causal else range(4)
                shares = np.array([math.exp(q[t, part] @ k[s, part] / math.sqrt(3)) for s in seen])
                values = np.array([v[s, part] for s in seen])
                attended[t, part] = shares / shares.sum() @ values
        x = x + attended @ w[f"{prefix}.attn.o.weight"].T + w[f"{prefix}.attn.o.bias"]
        hidden = np.maximum(x @ w[f"{prefix}.mlp.fc_in.weight"].T + w[f"{prefix}.mlp.fc_in.bias"], 0)
        x = x + hidden @ w[f"{prefix}.mlp.fc_out.weight"].T + w[f"{prefix}.mlp.fc_out.bias"]
    expected = x @ w["unembed.weight"].T
    np.testing.assert_allclose(model(torch.tensor([ids])).logits[0].detach().numpy(), expected, atol=1e-10)


def test_building_and_loading_leave_the_random_state() -> None:
    before = torch.get_rng_state()
    TracrModel(tiny_config())
    load_tracr("tracr:reverse")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_model_is_zero() -> None:
    assert all(not parameter.any() for parameter in TracrModel(tiny_config()).parameters())


def test_gradients_reach_every_module() -> None:
    model = TracrModel(tiny_config()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    model(torch.tensor([[1, 0]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_config_survives_json_types() -> None:
    config = load_tracr("tracr:xproportion").model.config
    assert TracrConfig.from_dict(config.to_dict()) == config
    assert config.vocab_size == 6 and config.n_positions == 6 and config.d_out == 1


def test_unknown_config_field_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'n_layers'"):
        TracrConfig.from_dict({**tiny_config().to_dict(), "n_layer": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_symbols": ("x",)}, "expected 2 output_symbols"),
        ({"output": "numeric", "output_symbols": ()}, "expected d_out=1"),
        ({"residual_labels": ("a",)}, "expected 5 residual_labels"),
        ({"bos_token": "bos"}, "expected 'bos' among tokens"),
    ],
)
def test_config_whose_parts_do_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TracrConfig.from_dict({**tiny_config().to_dict(), **change})
