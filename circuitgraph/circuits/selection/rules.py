"""Rules by their names, for `EdgeScores.select` and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen
from circuitgraph.circuits.selection.connected import connected_choice
from circuitgraph.circuits.selection.greedy import greedy_choice
from circuitgraph.circuits.selection.stable import stable_choice
from circuitgraph.circuits.selection.top import threshold_choice, top_choice
from circuitgraph.errors import ConfigurationError, UnknownNameError

RULES = {
    "top": "the n largest, less those that dangle without others",
    "threshold": "all from a score on, less those that dangle",
    "greedy": "n edges from the logits downwards, the best candidate first",
    "connected": "the connected circuit of n edges with the largest sum, by an integer programme",
    "stable": "the n largest of the mean over several scores, of those whose sign is the same in all",
}


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """What rules can be told.

    Attributes:
        n: How many edges: of all rules but `threshold`.
        threshold: The least score: of `threshold`.
        by: What edges are ranked by: `strength`, `size` or `signed`.
        exactly: Of `connected`: whether exactly n edges are kept, or at most n.
        time_limit: Of `connected`: seconds.
        agreement: Of `stable`: in which share of the scores the sign is the same.
    """

    n: int | None = None
    threshold: float | None = None
    by: str = "strength"
    exactly: bool = True
    time_limit: float = 60.0
    agreement: float = 1.0


def select_edges(several: Sequence[EdgeScores], rule: str, options: RuleOptions) -> Circuit:
    """Make a circuit of edge scores.

    Args:
        several: The scores; one, but of `stable` one for each resample.
        rule: A name of `RULES`.
        options: What the rule is told.

    Raises:
        UnknownNameError: No such rule or order.
        ConfigurationError: An option is missing, is another rule's, or makes no sense.
    """
    return choose_edges(several, rule, options).circuit()


def choose_edges(several: Sequence[EdgeScores], rule: str, options: RuleOptions) -> Chosen:
    """The edges that `select_edges` makes a circuit of, those that dangle included; its arguments and errors."""
    check_rule(rule, options)
    if rule == "threshold":
        assert options.threshold is not None
        return threshold_choice(_only(several, rule), options.threshold, by=options.by)
    assert options.n is not None
    if rule == "stable":
        return stable_choice(several, options.n, by=options.by, agreement=options.agreement)
    scores = _only(several, rule)
    if rule == "connected":
        return connected_choice(
            scores, options.n, by=options.by, exactly=options.exactly, time_limit=options.time_limit
        )
    return (top_choice if rule == "top" else greedy_choice)(scores, options.n, by=options.by)


def check_rule(rule: str, options: RuleOptions) -> None:
    """Refuse a rule that there is not, and options that are missing or another rule's.

    Args:
        rule: A name of `RULES`.
        options: What the rule is told.

    Raises:
        UnknownNameError: No such rule.
        ConfigurationError: An option is missing or another rule's.
    """
    if rule not in RULES:
        raise UnknownNameError.of("rule", rule, RULES)
    own = {"connected": ("exactly", "time_limit"), "stable": ("agreement",), "threshold": ("threshold",)}.get(rule, ())
    usual = RuleOptions()
    for name in ("threshold", "exactly", "time_limit", "agreement"):
        if name not in own and getattr(options, name) != getattr(usual, name):
            raise ConfigurationError(f"rule {rule!r} has no {name}; its options are {', '.join(('by', 'n', *own))}")
    if rule == "threshold":
        if options.threshold is None or options.n is not None:
            raise ConfigurationError(
                "rule 'threshold' takes a threshold and no n: the least score that is kept (select --threshold 0.1, "
                "discover --set selection.threshold=0.1), and neither a number nor a share of edges"
            )
    elif options.n is None:
        raise ConfigurationError(f"rule {rule!r} needs n, the number of edges")


def _only(several: Sequence[EdgeScores], rule: str) -> EdgeScores:
    if len(several) != 1:
        raise ConfigurationError(
            f"rule {rule!r} takes the scores of one method; got {len(several)}. Combine them first (combine_scores, "
            "--combine)"
        )
    return several[0]
