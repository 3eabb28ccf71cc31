"""Hand-made circuits: edges counted by hand from the roles, and what must not be among them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitgraph.circuits.published import published_circuit, published_circuit_names, published_roles
from circuitgraph.errors import UnknownNameError


def test_ioi_edges_are_those_that_the_roles_make() -> None:
    """Heads of a role times readers of the other; every head of a role comes before all of the next here."""
    ioi = published_circuit("ioi")
    inputs = 2 * 3 + 3 * 3 + 4 * 2 + 4 * 2 + (3 + 2 + 8) * 2  # previous, duplicate, induction, S-inhibition, movers
    between = 2 * 4 + 3 * 4 + 4 * 4 + 4 * (3 + 2 + 8)  # into keys, values, values, queries
    assert len(ioi) == ioi.n_raw == inputs + between + 3 + 2 + 8
    assert ioi.universe.n_edges == 32_491
    for edge in ("a4.h11->a5.h5<k>", "a6.h9->a7.h3<v>", "a0.h10->a8.h10<v>", "a8.h6->a10.h7<q>", "a11.h10->logits"):
        assert edge in ioi
    for edge in ("a4.h11->a5.h5<q>", "a9.h9->a10.h7<q>", "a5.h5->logits", "input->a9.h9<q>", "input->m0"):
        assert edge not in ioi


def test_ioi_has_the_papers_26_heads() -> None:
    roles = published_roles("ioi")
    heads = [node for nodes in roles.values() for node in nodes if node.startswith("a")]
    assert len(set(heads)) == len(heads) == 26 == len(published_circuit("ioi").heads)
    sizes = {role: len(nodes) for role, nodes in roles.items()}
    assert sizes == {
        "embeddings": 1, "previous token": 2, "duplicate token": 3, "induction": 4, "S-inhibition": 4,
        "name mover": 3, "negative name mover": 2, "backup name mover": 8, "MLP": 12, "output": 1,
    }  # fmt: skip


def test_what_ioi_never_cut_is_every_mlp() -> None:
    bare, whole = published_circuit("ioi"), published_circuit("ioi", never_cut=True)
    assert set(bare) < set(whole)
    added = set(whole) - set(bare)
    assert all("m" in edge for edge in added) and "m0->m1" in added and "a9.h9->m9" in added
    # 12 - l MLPs read a head of layer l, which reads l of them thrice; MLPs read each other and the input.
    layers = [int(head[1:].split(".")[0]) for head in bare.heads]
    assert len(added) == sum(12 - layer + 3 * layer for layer in layers) + 12 * 11 // 2 + 12 + 12


def test_greater_than_edges_are_those_that_the_groups_make() -> None:
    circuit = published_circuit("greater-than")
    early = 3 + 2 * 3 + 4 + 4 + 4 * 3 // 2  # input to heads and MLPs, head 0.1 to MLPs, MLPs among themselves
    middle = (1 + 2 + 4) * 7 * 2  # keys and values of seven heads
    late = 6 * 4 + 3 + 4 * 3 // 2 + 7 + 4  # head 9.1 comes after MLP 8
    assert len(circuit) == early + middle + late
    assert "a9.h1->m9" in circuit and "m3->a5.h1<q>" not in circuit
    added = set(published_circuit("greater-than", never_cut=True)) - set(circuit)
    assert added and all(edge.endswith("<q>") or edge.split("->")[1] in {"m4", "m5", "m6", "m7"} for edge in added)


@pytest.mark.parametrize("name", published_circuit_names())
@pytest.mark.parametrize("never_cut", [False, True])
def test_no_edge_dangles_and_the_source_is_told(name: str, never_cut: bool) -> None:
    circuit = published_circuit(name, never_cut=never_cut)
    assert len(circuit) == circuit.n_raw
    assert "arXiv" in circuit.provenance["source"] and circuit.provenance["never_cut"] is never_cut


def test_unknown_circuit_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'greater-than'"):
        published_circuit("greaterthan")


def test_neither_torch_nor_a_model_is_needed() -> None:
    read = "from circuitgraph.circuits.published import published_circuit; published_circuit('ioi')"
    code = f"import sys; {read}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
