"""What a finished run's figures say against it: pure functions of what `metrics.json` holds.

The judged split is `test`, else `validation`, else the first. What is looked at, in this order:

1. prompts with outputs that are no numbers;
2. whether the model does the task at all;
3. whether cutting everything changes anything;
4. whether the circuit is closer to the full model than random circuits, than no circuit, than its complement: by the
   interval of the difference paired by prompt, where there is one, else by the means;
5. whether it brings back at least half of what cutting everything loses;
6. whether its accuracy and exact match differ from those of the baselines;
7. whether there are prompts enough for such claims.

A file written before there were intervals is judged by its means, and shares by Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pruning.evaluation.proportion import percent_between, wilson
from pruning.findings import Finding, Severity

ABLE = 0.5
"""Below this accuracy a model is said not to do the task; it is chance where a right answer stands against a wrong."""
NOTHING = {"kl": 1e-3, "mse": 1e-6}
"""Cutting everything changes nothing where it costs no more than this, in nats or squared output."""
HARDLY = {"kl": 1e-2, "mse": 1e-5}
"""Where it costs no more than this, it hardly does."""
FAR = 0.5
"""A circuit that loses more than this share of what cutting everything loses is far from the full model."""
FEW_PROMPTS = 20
WIDE = 0.25
"""An interval of exact match that is wider than this is too wide for a claim."""
NO_DIFFERENCE = 1e-9
"""Differences below this are rounding."""
_BASELINES = {"random": "random circuits of its size", "empty": "the empty circuit", "complement": "its complement"}
_UNITS = {"kl": ("KL", " nats"), "mse": ("mean squared error", "")}

Row = Mapping[str, Any]
Roles = Mapping[str, Row]


def verdicts(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Judge a run by its figures.

    Args:
        metrics: As in `metrics.json`: `splits` by split, role and metric; `sparsity`, if there is any.

    Returns:
        A dict with `name`, `severity` (`wrong` or `doubt`) and `text` for each verdict, the wrong ones first; empty if
        nothing speaks against the run.

    Examples:
        >>> roles = {
        ...     "circuit": {"n": 200, "kl": 0.9}, "full": {"n": 200, "kl": 0.0, "accuracy": 0.95},
        ...     "empty": {"n": 200, "kl": 3.8}, "complement": {"n": 200, "kl": 0.4},
        ... }
        >>> [(verdict["severity"], verdict["name"]) for verdict in verdicts({"splits": {"test": roles}})]
        [('wrong', 'no-better-than-complement')]
    """
    splits = metrics.get("splits") or {}
    split = next((name for name in ("test", "validation", *splits) if name in splits), None)
    if split is None:
        found = [
            Finding(
                name="not-measured",
                severity="doubt",
                text="The circuit was measured on no prompts, so nothing is known of it: give the task validation or "
                "test prompts, or run `circuitgraph evaluate` on others.",
            )
        ]
    else:
        found = judge_roles(splits[split], split=split, n_edges=_n_edges(metrics, splits[split]))
    return [finding.to_dict() for finding in sorted(found, key=lambda finding: finding.severity != "wrong")]


def _n_edges(metrics: Mapping[str, Any], roles: Roles) -> int | None:
    """How many edges the circuit has, if the figures say."""
    found = roles.get("circuit", {}).get("n_edges", (metrics.get("sparsity") or {}).get("n_effective"))
    return None if found is None else int(found)


def judge_roles(roles: Roles, *, split: str = "test", n_edges: int | None = None) -> list[Finding]:
    """Judge a circuit by the figures of one split.

    Args:
        roles: Metrics by role, as `Evaluation.metrics`.
        split: What the prompts are called.
        n_edges: Edges of the circuit, if known.

    Returns:
        The verdicts, in the order of the module's list.
    """
    found = [*_undefined(roles, split), *_model(roles, split)]
    nothing = list(_nothing(roles, split))
    found += nothing
    if n_edges == 0:
        text = "The circuit has no edges: what is measured is the model with everything cut."
        found.append(Finding(name="empty-circuit", severity="wrong", text=text))
    elif not any(one.severity == "wrong" for one in nothing):
        found += [*_baselines(roles, split), *_far(roles, split), *_shares(roles, split), *_smaller_random(roles)]
    return [*found, *_few(roles, split)]


def _loss_name(roles: Roles) -> str | None:
    """What the distance to the full model is called here."""
    return next((name for name in _UNITS if roles.get("circuit", {}).get(name) is not None), None)


def _counted(row: Row, metric: str) -> int:
    """For how many prompts a metric of a role is defined."""
    return int(row.get(f"n_{metric}", row["n"] - row.get("n_undefined", 0)))


def _has_bounds(between: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, float]]:
    """Whether a difference has an interval: of fewer than two prompts it has none."""
    return between is not None and between.get("low") is not None and between.get("high") is not None


def _undefined(roles: Roles, split: str) -> Iterator[Finding]:
    rows = {role: int(row.get("n_undefined") or 0) for role, row in roles.items()}
    worst = max(rows, key=lambda role: rows[role], default="full")
    if not rows.get(worst):
        return
    whose = {"full": "the full model", "circuit": "the circuit"}.get(worst, f"the role {worst}")
    n = roles[worst]["n"]
    severity: Severity = "wrong" if rows[worst] == n else "doubt"
    yield Finding(
        name="undefined-outputs",
        severity=severity,
        text=f"For {rows[worst]:,} of {n:,} {split} prompts the outputs of {whose} are not finite numbers; they are "
        "in none of the means. Use --dtype float32, or look for the token that they have in common.",
    )


def _model(roles: Roles, split: str) -> Iterator[Finding]:
    full = roles.get("full", {})
    accuracy = full.get("accuracy")
    n = _counted(full, "accuracy") if accuracy is not None else 0
    if accuracy is None or not n:
        return
    choice = full.get("logit_diff") is not None and _counted(full, "logit_diff") == n
    found = judge_accuracy(accuracy, n, choice=choice, of=split)
    if found is not None:
        yield found


def judge_accuracy(accuracy: float, n: int, *, choice: bool, of: str) -> Finding | None:
    """Whether a model does a task.

    Args:
        accuracy: The share of prompts that it gets right.
        n: Of how many.
        choice: Whether a right answer stands against a wrong one, so that chance is a half.
        of: What the prompts are called.

    Returns:
        What speaks against it, if anything does.

    Examples:
        >>> judge_accuracy(1 / 3, 3, choice=False, of="test").severity
        'doubt'
        >>> judge_accuracy(0.1, 200, choice=False, of="test").severity
        'wrong'
        >>> judge_accuracy(0.95, 200, choice=True, of="test")
    """
    low, high = wilson(accuracy, n)
    if accuracy >= ABLE and not (choice and low <= ABLE and n >= FEW_PROMPTS):
        return None
    does = "prefers the right answer in" if choice else "gives the right answer to"
    chance = ", and chance is 50 %" if choice else ""
    return Finding(
        name="model-cannot-do-task",
        severity="wrong" if high < ABLE else "doubt",
        text=f"The full model {does} {percent_between(accuracy, n, f'{of} prompts')}{chance}. A circuit found here "
        "shows how the model fails, not how it does the task: take prompts that it gets right, other wording, or "
        "another model.",
    )


def _nothing(roles: Roles, split: str) -> Iterator[Finding]:
    name = _loss_name(roles)
    loss = roles.get("empty", {}).get(name) if name is not None else None
    if name is None or loss is None or loss > HARDLY[name]:
        return
    called, unit = _UNITS[name]
    changes = "changes nothing" if loss <= NOTHING[name] else "hardly changes anything"
    yield Finding(
        name="nothing-to-explain",
        severity="wrong" if loss <= NOTHING[name] else "doubt",
        text=f"Cutting every edge {changes}: the empty circuit has {called} {loss:.2g}{unit} on {split} prompts. Every "
        "circuit is as good as the model then, whatever its edges. Give counterfactuals that change the answer "
        "(circuitgraph check shows how many do), or another --ablation.",
    )


def _baselines(roles: Roles, split: str) -> Iterator[Finding]:
    name = _loss_name(roles)
    if name is None:
        return
    called, unit = _UNITS[name]
    for role, what in _BASELINES.items():
        row = roles.get(role, {})
        other, between = row.get(name), (row.get("difference") or {}).get(name)
        if other is None:
            continue
        own, on = _beside(roles, role, name, split)
        figures = f"{called} {own:.3g}{unit} against {other:.3g} on {on}"
        if not _has_bounds(between):
            worse, unclear = own >= other, False
        else:
            worse, unclear = between["low"] > 0, between["low"] <= 0 <= between["high"]
            figures += (
                f"; difference {_told(between['mean'])}, 95 % interval {_told(between['low'])} to "
                f"{_told(between['high'])}"
            )
        if worse or unclear:
            shown = "no" if worse else "not shown to be"
            yield Finding(
                name=f"no-better-than-{role}",
                severity="wrong" if worse else "doubt",
                text=f"The circuit is {shown} better than {what}: {figures}. {_CURE[role]}",
            )


_MORE = "Lower --target-sparsity or give more training prompts; where gates are trained, raise --steps."
_CURE = {
    "random": f"Its edges are no explanation. {_MORE}",
    "empty": f"Keeping it does not bring the model back. {_MORE}",
    "complement": "What was cut does the task as well as what was kept. Look at what both have in common, or lower "
    "--target-sparsity; where gates are trained, raise --steps.",
}


def _beside(roles: Roles, role: str, metric: str, split: str) -> tuple[float, str]:
    """The circuit's figure on the prompts that a baseline ran on, and which these are.

    Random circuits may have run on some of the prompts alone; then the circuit's figure there is theirs and the
    difference.
    """
    row, n = roles[role], _counted(roles["circuit"], metric)
    between = (row.get("difference") or {}).get(metric) or {}
    n_there = _counted(row, metric) if "n" in row else n
    if n_there < n and between.get("mean") is not None:
        return row[metric] + between["mean"], f"{n_there:,} of {n:,} {split} prompts"
    return roles["circuit"][metric], f"{n:,} {split} prompts"


def _told(difference: float) -> str:
    """A difference with three digits; rounding of the arithmetic is 0."""
    return f"{0.0 if abs(difference) < NO_DIFFERENCE else difference:.3g}"


def _far(roles: Roles, split: str) -> Iterator[Finding]:
    """A circuit that is better than none, and yet far from the full model."""
    name = _loss_name(roles)
    empty = roles.get("empty", {}).get(name) if name is not None else None
    circuit = roles["circuit"][name] if name is not None else None
    if name is None or empty is None or circuit is None or not FAR * empty < circuit < empty:
        return
    called, unit = _UNITS[name]
    yield Finding(
        name="far-from-model",
        severity="doubt",
        text=f"The circuit is far from the full model: {called} {circuit:.3g}{unit} on {split} prompts, and "
        f"{empty:.3g} with every edge cut, so it brings back {100 * (1 - circuit / empty):.0f} % of what is lost. "
        "Lower --target-sparsity; where gates are trained, raise --steps.",
    )


def _shares(roles: Roles, split: str) -> Iterator[Finding]:
    """Accuracy and exact match that do not differ from a baseline's."""
    circuit = roles["circuit"]
    for metric in ("accuracy", "exact_match"):
        own, n = circuit.get(metric), _counted(circuit, metric)
        for role in ("random", "empty"):
            other = roles.get(role, {}).get(metric)
            if own is None or other is None or not n:
                continue
            between = (roles[role].get("difference") or {}).get(metric)
            if _has_bounds(between):
                low, high = between["low"], between["high"]
            else:
                low, high = (end - other for end in wilson(own, n))
            if low <= 0 <= high:
                own_there, on = _beside(roles, role, metric, split)
                yield Finding(
                    name=f"{metric.replace('_', '-')}-crosses-baseline",
                    severity="doubt",
                    text=f"The circuit's {metric.replace('_', ' ')} is not shown to differ from that of "
                    f"{_BASELINES[role]}: {100 * own_there:.0f} % against {100 * other:.0f} % of {on}, "
                    f"difference {100 * low:.0f} to {100 * high:.0f} points (95 %). Do not report it as a success"
                    + ("." if own_there == other else "; more prompts would tell."),
                )
                break


def _smaller_random(roles: Roles) -> Iterator[Finding]:
    own, other = roles["circuit"].get("n_edges"), roles.get("random", {}).get("n_edges")
    if own and other is not None and other < 0.9 * own:
        yield Finding(
            name="random-circuits-smaller",
            severity="doubt",
            text=f"The random circuits have {other:,.0f} edges on average and the circuit {own:,}: where a circuit is "
            "sparse, few random edges connect. Being better than them says less than it seems.",
        )


def _few(roles: Roles, split: str) -> Iterator[Finding]:
    circuit = roles.get("circuit", {})
    match, n = circuit.get("exact_match"), _counted(circuit, "exact_match") if "n" in circuit else 0
    if not n:
        return
    low, high = wilson(match, n) if match is not None else (0.0, 1.0)
    if n < FEW_PROMPTS or (match is not None and high - low > WIDE):
        figures = f": exact match on {percent_between(match, n)}" if match is not None else ""
        yield Finding(
            name="few-prompts",
            severity="doubt",
            text=f"{n:,} {split} prompts are few for a claim{figures}. Give more with --test-size, or more lines.",
        )
