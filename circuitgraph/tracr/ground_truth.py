"""The exact circuits of the shipped programs, in the universe with `tok` and `pos` as writers apart.

An edge belongs to the circuit if cutting it alone (the reader loses what the writer says: zero ablation)
changes what the program says at any position after BOS, on any prompt of 1 to `max_seq_len` tokens. The
tests prove both lists: they cut each edge of the universe alone, on all prompts, and run the survivors
alone, which reproduces every output to 1e-6.

Two kinds of prompt matter. With prompts of the maximal length alone, `reverse` would need only 9 edges:
there a silent `a0.h0` reads as "length 5", which is then true. And what is said at BOS, which no program
defines, is left out: it moves with `tok->a3.h0<q>` and `tok->a3.h0<k>` of `reverse`, and with
`tok->a1.h0<q>` and `tok->a1.h0<k>` of `xproportion`, which keep BOS attending to itself.
"""

from __future__ import annotations

from circuitgraph.tracr.programs import get_program

_EDGES: dict[str, tuple[str, ...]] = {
    # a0 finds 1 / (length + 1), m0 the length, m1 length - index, m2 that minus 1, and a3 looks there.
    "reverse": (
        "tok->a0.h0<v>",
        "tok->m0",
        "a0.h0->m0",
        "tok->m1",
        "pos->m1",
        "m0->m1",
        "m1->m2",
        "m2->a3.h0<q>",
        "pos->a3.h0<k>",
        "tok->a3.h0<v>",
        "a3.h0->logits",
    ),
    # m0 marks the x, and a1 averages the marks over all positions up to its own.
    "xproportion": (
        "tok->m0",
        "pos->a1.h0<q>",
        "pos->a1.h0<k>",
        "m0->a1.h0<v>",
        "a1.h0->logits",
    ),
}


def ground_truth_edges(name: str) -> frozenset[str]:
    """Give the edges of a program's circuit.

    Args:
        name: A shipped program, with or without `tracr:` before it.

    Returns:
        Edges as `writer->reader`: 11 of 94 for `reverse`, 5 of 32 for `xproportion`.

    Raises:
        UnknownNameError: There is no such program.

    Examples:
        >>> sorted(ground_truth_edges("xproportion"))
        ['a1.h0->logits', 'm0->a1.h0<v>', 'pos->a1.h0<k>', 'pos->a1.h0<q>', 'tok->m0']
    """
    return frozenset(_EDGES[get_program(name).name])
