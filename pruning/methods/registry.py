"""The methods that rank edges, by name. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable

from circuitgraph.errors import UnknownNameError
from pruning.methods.acdc import ACDC
from pruning.methods.conductance import Conductance
from pruning.methods.eap import EAP, CleanCorrupted
from pruning.methods.eap_ig import EAPIG, EAPIGActivations
from pruning.methods.edge_pruning.ranked import EdgePruning, Nested
from pruning.methods.exact import Exact
from pruning.methods.gate_gradients import GateGradients, GateImportance
from pruning.methods.greedy_nodes import GreedyNodes
from pruning.methods.head_importance import HeadImportance
from pruning.methods.information_flow import ActivationMagnitude, InformationFlow
from pruning.methods.method import Method
from pruning.methods.random_scores import RandomScores
from pruning.methods.subnetwork_probing import SubnetworkProbing
from pruning.methods.ugs import UGS
from pruning.methods.weight_magnitude import WeightMagnitude

_ALL: tuple[Callable[..., Method], ...] = (
    EAP, EAPIG, EAPIGActivations, CleanCorrupted, Conductance, Exact, GateGradients, GateImportance, HeadImportance,
    InformationFlow, ActivationMagnitude, WeightMagnitude, RandomScores, Nested, EdgePruning, ACDC, UGS,
    SubnetworkProbing, GreedyNodes,
)  # fmt: skip
METHODS: dict[str, Callable[..., Method]] = {made().name: made for made in _ALL}


def method_class(name: str) -> Callable[..., Method]:
    """What makes a method: called with its settings by name.

    Args:
        name: Its name.

    Raises:
        UnknownNameError: No such method.
    """
    if name not in METHODS:
        raise UnknownNameError.of("method", name, METHODS)
    return METHODS[name]


def method_named(name: str) -> Method:
    """A method with its default settings; `pruning.runs.method_settings.method_with` takes others.

    Args:
        name: Its name.

    Raises:
        UnknownNameError: No such method.

    Examples:
        >>> method_named("eap").direction
        'noising'
    """
    return method_class(name)()
