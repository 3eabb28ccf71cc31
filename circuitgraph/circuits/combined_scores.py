"""Scores made of scores, edge by edge: of several methods or resamples on one scale, or of both directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.strength import LOG_ALPHA, RISE_WHEN_TRIED
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

WAYS = ("mean", "min", "max")
SCALES = ("largest", "total", "incoming", "rank", "none")


def combine_scores(
    several: Sequence[EdgeScores],
    *,
    how: str = "mean",
    weights: Sequence[float] | None = None,
    scale: str = "largest",
) -> EdgeScores:
    """Join the scores of several methods, edge by edge.

    Args:
        several: The scores, of one universe and ablation.
        how: `mean`, `min` or `max`, of the scores with their signs.
        weights: Of a weighted mean, one for each, not below 0.
        scale: What each is divided by beforehand. `largest`: the largest score in size. `total`: the sum of the sizes.
            `incoming`: for every reader, the sum of the sizes of the edges into it. `rank`: not divided but replaced
            by its rank in size, from 0 to 1, with its sign. `none`: 1.

    Returns:
        The scores; their provenance tells how they were made, and of what.

    Raises:
        ConfigurationError: There are none, or weights do not fit.
        GraphMismatchError: They are of different universes or ablations; without a scale, also of different meanings.
        UnknownNameError: No such way or scale.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> one = EdgeScores.of(universe, np.arange(8.0), method="a", direction="noising", estimates="a rank")
        >>> other = EdgeScores.of(universe, -np.arange(8.0) * 10, method="b", direction="between", estimates="a slope")
        >>> combine_scores([one, other], weights=[3, 1])["m0->logits"]
        0.5

    References:
        "Parallel ensembles" of edge scores: cisnlp's team in the BlackboxNLP 2025 shared task (arXiv 2510.06811).
    """
    if how not in WAYS:
        raise UnknownNameError.of("way to combine scores", how, WAYS)
    if scale not in SCALES:
        raise UnknownNameError.of("scale", scale, SCALES)
    if not several:
        raise ConfigurationError("expected at least one set of scores; got none")
    shares = _weights(weights, len(several), how)
    _check_alike(several, scale)
    first = several[0]
    table = np.stack([_scaled(first.universe, scores.values, scale) for scores in several])
    values = shares @ table if how == "mean" else getattr(table, how)(0)
    common = {name: [getattr(scores, name) for scores in several] for name in ("method", "direction", "estimates")}
    same = {name: said[0] if len(set(said)) == 1 else None for name, said in common.items()}
    scaled = "" if scale == "none" else f", scaled by {scale}"
    return EdgeScores.of(
        first.universe,
        values,
        method=same["method"] or "+".join(common["method"]),
        direction=same["direction"] or "unknown",
        estimates=first.estimates if scale == "none" else f"{how} of the scores of {len(several)}{scaled}",
        ablation=first.ablation,
        provenance={**_common(several), "combined": _told(several, how, scale, shares)},
    )


def both_directions(noising: EdgeScores, denoising: EdgeScores) -> EdgeScores:
    """Join what noising and denoising say of each edge, as the paper does for each kind of method.

    Scores of attribution and of patching: |noising| + |denoising|, the sum of sizes and not of signed numbers, which
    would cancel. Scores of trained gates (log α): the mean of the two masks, `σ(1.2 log α)`, the published
    deterministic gates.

    Args:
        noising: Scores of one method on the pairs.
        denoising: Scores of the same method on the swapped pairs.

    Returns:
        Scores of the direction `both`; their provenance names the two.

    Raises:
        GraphMismatchError: They are of different universes, ablations or meanings.
        ConfigurationError: They are rises that a greedy search measured, which were decided one after the other.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> one = EdgeScores.of(universe, np.arange(8.0), method="a", direction="noising", estimates="a slope")
        >>> other = EdgeScores.of(universe, -np.arange(8.0), method="a", direction="denoising", estimates="a slope")
        >>> found = both_directions(one, other)
        >>> found["m0->logits"], found.direction
        (14.0, 'both')

    References:
        arXiv 2505.10039: attribution at the clean and at the corrupted prompt summed, two independent trainings of
        Edge Pruning with their masks averaged.
    """
    _check_alike([noising, denoising], "none")
    if noising.estimates == RISE_WHEN_TRIED:
        raise ConfigurationError(
            "rises that a greedy search measured cannot be added up afterwards: each depends on what was cut before "
            "it. Search in both directions at once: --method acdc --direction both"
        )
    trained = noising.estimates == LOG_ALPHA
    first, second = noising.values, denoising.values
    if trained:
        values, estimates = (_mask(first) + _mask(second)) / 2, "mean of the masks trained by noising and by denoising"
    else:
        values, estimates = np.abs(first) + np.abs(second), f"sizes of both directions added: {noising.estimates}"
    named = {"noising": noising, "denoising": denoising}
    of = {direction: {"scores": scores.digest, **scores.about} for direction, scores in named.items()}
    seconds = [scores.provenance.get("seconds") for scores in named.values()]
    known = [one for one in seconds if isinstance(one, float)]
    taken = {"seconds": sum(known)} if len(known) == len(seconds) else {}
    return EdgeScores.of(
        noising.universe, values, method=noising.method, direction="both", estimates=estimates,
        ablation=noising.ablation, provenance={**_common([noising, denoising]), **taken, "directions": of},
    )  # fmt: skip


def _mask(log_alpha: np.ndarray) -> Float[np.ndarray, " edge"]:
    """σ(0.8 α / τ) with τ = 2/3, which no two α share."""
    return np.exp(-np.logaddexp(0.0, -1.2 * log_alpha))


def _weights(weights: Sequence[float] | None, n: int, how: str) -> Float[np.ndarray, " method"]:
    """Weights that add up to 1."""
    if weights is None:
        return np.full(n, 1 / n)
    if how != "mean":
        raise ConfigurationError(f"weights are for a mean; got how={how!r}")
    shares = np.array(weights, dtype=np.float64)
    if shares.shape != (n,) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise ConfigurationError(f"expected {n} weights, none below 0 and not all 0; got {list(weights)}")
    return shares / shares.sum()


def _check_alike(several: Sequence[EdgeScores], scale: str) -> None:
    first = several[0]
    for place, other in enumerate(several):
        difference = first.universe.first_difference(other.universe)
        if difference is None and first.ablation != other.ablation:
            difference = f"ablation: {first.ablation!r} against {other.ablation!r}"
        if difference is None and scale == "none" and first.estimates != other.estimates:
            difference = f"estimates: {first.estimates!r} against {other.estimates!r}; choose a scale"
        if difference is not None:
            raise GraphMismatchError(f"scores 0 and {place} cannot be combined: {difference}")


def _scaled(universe: Universe, values: np.ndarray, scale: str) -> Float[np.ndarray, " edge"]:
    sizes = np.abs(values)
    if scale == "none":
        return values
    if scale == "rank":
        from scipy.stats import rankdata

        return np.sign(values) * (rankdata(sizes) - 1) / max(len(values) - 1, 1)
    if scale == "incoming":
        sums = np.add.reduceat(sizes, universe.reader_offsets[:-1])
        below = np.repeat(sums, np.diff(universe.reader_offsets))
    else:
        below = np.full(len(values), sizes.max() if scale == "largest" else sizes.sum())
    return np.divide(values, below, out=np.zeros(len(values)), where=below > 0)


def _common(several: Sequence[EdgeScores]) -> dict[str, object]:
    """What all of them say of where they came from."""
    first, *others = (scores.provenance for scores in several)
    about = several[0].about
    return {
        name: value
        for name, value in first.items()
        if name not in about and all(name in other and other[name] == value for other in others)
    }


def _told(several: Sequence[EdgeScores], how: str, scale: str, shares: np.ndarray) -> dict[str, object]:
    of = [{"scores": scores.digest, **scores.about} for scores in several]
    return {"how": how, "scale": scale, **({"weights": shares} if how == "mean" else {}), "of": of}
