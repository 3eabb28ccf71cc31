"""What attention declares, against numbers made by hand and torch's own norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from circuitgraph.architectures import family_of
from circuitgraph.architectures.attention import Attention, HeadNorm, alibi_slopes
from circuitgraph.architectures.family import BoundBlock, Projection
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rotary import rotate_halves, rotate_pairs
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.attention import attend, prepared


def test_alibi_slopes_of_the_paper() -> None:
    """Eight heads have 1/2 … 1/256; six have four of those of four heads, then two from between."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6).tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]


def _one_query(attention: Attention, key: Tensor, value: Tensor) -> Tensor:
    """What two heads gather at the last of three positions, with a query of 1."""
    query = torch.ones(2, 1, 1, 1)
    return attend(query, key, value, None, causal=False, attention=attention)[:, 0, 0, 0]


def test_scores_by_hand() -> None:
    key = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1).expand(2, -1, -1, -1)
    value = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1).expand(2, -1, -1, -1)

    def expected(scores: list[float], sink: float | None = None) -> float:
        shares = [math.exp(score) for score in scores]
        whole = sum(shares) + (0.0 if sink is None else math.exp(sink))
        return sum(share / whole * said for share, said in zip(shares, (1, 10, 100), strict=True))

    plain = _one_query(Attention(scale=0.5), key, value)
    torch.testing.assert_close(plain, torch.full((2,), expected([0.5, 1, 2])))
    capped = _one_query(Attention(scale=0.5, cap=1.5), key, value)
    torch.testing.assert_close(capped, torch.full((2,), expected([1.5 * math.tanh(s / 1.5) for s in (0.5, 1, 2)])))
    sloped = _one_query(Attention(scale=0.5, slopes=torch.tensor([0.0, 0.25])), key, value)
    torch.testing.assert_close(sloped, torch.tensor([expected([0.5, 1, 2]), expected([0.5, 1.25, 2.5])]))
    sunk = _one_query(Attention(scale=0.5, sinks=torch.tensor([-30.0, 1.0])), key, value)
    torch.testing.assert_close(sunk, torch.tensor([expected([0.5, 1, 2]), expected([0.5, 1, 2], sink=1.0)]))


def test_slopes_and_sinks_are_of_the_heads_that_run() -> None:
    key, value = torch.randn(1, 1, 3, 2), torch.randn(1, 1, 3, 2)
    query = torch.randn(1, 1, 3, 2)
    whole = Attention(scale=1.0, slopes=torch.tensor([0.1, 0.7]), sinks=torch.tensor([0.2, 2.0]))
    second = Attention(scale=1.0, slopes=torch.tensor([0.7]), sinks=torch.tensor([2.0]))
    found = attend(query, key, value, None, causal=True, attention=whole, heads=np.array([1]))
    torch.testing.assert_close(found, attend(query, key, value, None, causal=True, attention=second))


@pytest.mark.parametrize("over", ["head", "layer"])
def test_norms_of_queries(over: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 5, generator=generator)
    weight, bias = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    norm = HeadNorm(kind="layer", weight=weight, bias=bias, epsilon=1e-5, over=over)  # type: ignore[arg-type]
    if over == "head":
        expected = torch.stack([layer_norm(x[h], (5,), weight[h], bias[h], 1e-5) for h in range(3)])
    else:  # one row of fifteen numbers a position
        flat = layer_norm(x.movedim(0, -2).flatten(-2), (15,), weight.flatten(), bias.flatten(), 1e-5)
        expected = flat.unflatten(-1, (3, 5)).movedim(-2, 0)
    torch.testing.assert_close(norm(x), expected)
    if over == "head":
        some = torch.tensor([2, 0])
        torch.testing.assert_close(norm(x[some], some), expected[some])


def test_weights_that_are_differences_from_1() -> None:
    norm = HeadNorm(kind="rms", weight=torch.tensor([0.0, 1.0]), epsilon=0.0, offset=1.0)
    assert norm(torch.tensor([[[[2.0, 2.0]]]])).flatten().tolist() == [1.0, 2.0]


def test_clamped_before_they_are_turned() -> None:
    x = torch.tensor([3.0, -5.0]).view(1, 1, 1, 2)
    quarter = (torch.zeros(1, 1, 2), torch.ones(1, 1, 2))  # cosines and sines of a quarter turn
    attention = Attention(scale=1.0, clip=2.0)
    assert prepared(attention, 0, x, quarter).flatten().tolist() == [2.0, 2.0]
    assert prepared(attention, 2, x, quarter).flatten().tolist() == [2.0, -2.0]


def test_two_ways_to_turn() -> None:
    """A quarter turn of the first four numbers of six."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view(1, 1, 1, 6)
    quarter = (torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
    assert rotate_halves(x, quarter).flatten().tolist() == [-3.0, -4.0, 1.0, 2.0, 5.0, 6.0]
    assert rotate_pairs(x, quarter).flatten().tolist() == [-2.0, 1.0, -4.0, 3.0, 5.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_in_float32_leave_the_number_format(dtype: torch.dtype) -> None:
    """OLMo's are, so its narrow models are turned in float32 and rounded then."""
    x = torch.tensor([[[[3.0, 5.0]]]], dtype=dtype)
    cos, sin = torch.full((1, 1, 2), 0.7), torch.full((1, 1, 2), 0.1)
    found = prepared(Attention(scale=1.0), 0, x, (cos, sin))
    expected = torch.tensor([[[[3 * 0.7 - 5 * 0.1, 5 * 0.7 + 3 * 0.1]]]]).to(dtype)
    assert found.dtype == dtype and torch.equal(found, expected)


def _block(**settings: object) -> BoundBlock:
    generator = torch.Generator().manual_seed(1)
    weights = Projection(torch.randn(2, 3, 2, generator=generator), None)
    parts = {"attention_norm": Norm.none(), "query": weights, "key": weights, "value": weights}
    return BoundBlock(
        **parts, raw_output=torch.randn(4, 3, generator=generator), attention=Attention(scale=1.0),
        mlp_norm=Norm.none(), mlp=torch.nn.Identity(), **settings,
    )  # type: ignore[arg-type]  # fmt: skip


def test_heads_behind_a_norm_add_up_to_it() -> None:
    weight = torch.tensor([0.5, 2.0, -1.0])
    norm = Norm(module=torch.nn.Identity(), kind="rms", weight=weight, epsilon=1e-6, offset=1.0)
    block = _block(heads_norm=norm)
    mixed = torch.randn(2, 4, 5, 2, generator=torch.Generator().manual_seed(2))
    together = mixed.movedim(0, -2).flatten(-2) @ block.raw_output
    expected = together / (together.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight)
    found = torch.einsum("hbsd,hdm->bsm", block.settled(mixed), block.output.unflatten(0, (2, 2)))
    torch.testing.assert_close(found, expected)


def test_a_norm_that_heads_cannot_share() -> None:
    layer = Norm.layer(torch.nn.LayerNorm(3))
    with pytest.raises(UnsupportedModelError, match="has to be an RMS norm"):
        _block(heads_norm=layer)
    rms = Norm(module=torch.nn.Identity(), kind="rms", weight=torch.ones(3), epsilon=1e-6)
    with pytest.raises(UnsupportedModelError, match="without a bias"):
        _block(heads_norm=rms, raw_output_bias=torch.ones(3))


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(UnsupportedModelError, match="'qwen4' is not supported.*nearest name is 'qwen"):
        family_of("qwen4")
