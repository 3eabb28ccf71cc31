"""Where deltas and gradients lie: played through row by row, nothing is written over that is still asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitgraph.forward.stream.buffer import StreamLayout, overlapping

Block = tuple[int, int, int]  # first reader, readers, writers seen


@st.composite
def streams(draw) -> tuple[list[Block], int, int]:
    """Layers of two blocks and the logits; any of them may have no reader or no writer."""
    parallel = draw(st.booleans())
    blocks, row, slots = [], 0, draw(st.integers(0, 2))
    for _ in range(draw(st.integers(0, 5))):
        heads, mlp, attention, other = (draw(st.integers(0, most)) for most in (4, 1, 8, 1))
        blocks.append((row, attention, slots))
        blocks.append((row + attention, other, slots + (0 if parallel else heads)))
        row, slots = row + attention + other, slots + heads + mlp
    last = draw(st.integers(0, 1))
    return [*blocks, (row, last, slots)], row + last, slots


def _play(blocks: list[Block], layout: StreamLayout, n_rows: int, n_slots: int) -> bool:
    """Whether a pass finds everything where it put it, in a buffer that can do no more than hold a row a place."""
    buffer: dict[int, object] = {slot: ("delta", slot) for slot in range(n_slots)}
    if n_slots > layout.size:
        return False
    folded = layout.fold_row == 0
    for index in range(len(blocks) - 1, -1, -1):
        first, n, seen = blocks[index]
        if not n:
            continue
        if first < layout.fold_row and not folded:
            folded = True
            late = layout.place(slice(layout.fold_row, n_rows))
            kept = [buffer.get(place) for place in range(late.start, late.stop)]
            if kept != [("gradient", row) for row in range(layout.fold_row, n_rows)]:
                return False
            buffer.update(dict.fromkeys(range(layout.folded.start, layout.folded.stop), "sum"))
        places = layout.place(slice(first, first + n))
        if places.start < 0 or places.stop > layout.size:
            return False
        buffer.update({place: ("gradient", first + at) for at, place in enumerate(range(places.start, places.stop))})
        # Gates' gradients are dots with every delta that the block sees; reads are mixed from the same ones.
        if any(buffer.get(slot) != ("delta", slot) for slot in range(seen)):
            return False
        behind = range(first, layout.fold_row if folded and first < layout.fold_row else n_rows)
        at = layout.place(slice(behind.start, behind.stop))
        if [buffer.get(place) for place in range(at.start, at.stop)] != [("gradient", row) for row in behind]:
            return False
        if folded and layout.fold_row:
            sums = range(layout.folded.start, layout.folded.stop)
            if any(buffer.get(place) != "sum" for place in sums):
                return False
    return True


@given(streams())
def test_nothing_is_written_over_and_no_fold_gives_a_smaller_buffer(stream) -> None:
    blocks, n_rows, n_slots = stream
    starts, seen = [first for first, _, _ in blocks], [seen for _, _, seen in blocks]
    found = overlapping(starts, seen, n_rows, n_slots)
    assert _play(blocks, found, n_rows, n_slots)
    for block in range(0, len(blocks), 2):
        fold_row, n_folded = (starts[block], seen[block]) if starts[block] else (0, 0)
        smaller = StreamLayout(size=found.size - 1, n_rows=n_rows, fold_row=fold_row, n_folded=n_folded)
        if found.size and n_folded <= smaller.size:
            assert not _play(blocks, smaller, n_rows, n_slots)


@pytest.mark.parametrize(
    ("n_layers", "heads", "attention", "fold_row", "n_folded", "size"),
    [
        # GPT-2 small: half of 12 layers of 36 + 1 readers are 222, folded into 1 + 6 x 13 writers, with the other 223.
        (12, 12, 36, 222, 79, 79 + 223),
        # SmolLM2: half of 30 layers of 15 + 1 readers are 240, folded into 1 + 15 x 10 writers, with the other 241.
        (30, 9, 15, 240, 151, 151 + 241),
    ],
)
def test_gpt2_small_and_smollm2_by_count(n_layers, heads, attention, fold_row, n_folded, size) -> None:
    starts, seen = [], []
    for layer in range(n_layers):
        row, slot = (attention + 1) * layer, 1 + (heads + 1) * layer
        starts += [row, row + attention]
        seen += [slot, slot + heads]
    n_rows, n_slots = (attention + 1) * n_layers + 1, 1 + (heads + 1) * n_layers
    layout = overlapping([*starts, n_rows - 1], [*seen, n_slots], n_rows, n_slots)
    assert (layout.fold_row, layout.n_folded, layout.size) == (fold_row, n_folded, size)
    assert size == 1 + n_folded + fold_row  # above the embedding's delta, the sums and the first half's gradients
