"""The table of compiled programs on the reference page says what is shipped."""

from __future__ import annotations

import json

import pytest

from circuitgraph.tracr import get_program, load_ground_truth, program_names
from circuitgraph.tracr.loading import WEIGHTS_FOLDER
from tests.doc_pages import DOCS

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "reference" / "tracr.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def test_every_program_has_a_row() -> None:
    assert sorted(row[0].strip("`") for row in ROWS) == program_names()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_says_what_is_shipped(row: list[str]) -> None:
    name, summary, tokens, longest, prompts, answers, shape, *edges, only = row
    program, truth = get_program(name.strip("`")), load_ground_truth(name.strip("`"))
    config = json.loads((WEIGHTS_FOLDER / f"{program.name}.json").read_text())["config"]
    assert (summary, tokens.split(), int(longest)) == (program.summary, [*program.tokens], program.max_seq_len)
    assert int(prompts) == len(list(program.inputs())) == truth.n_prompts
    assert answers == {"numeric": "number", "categorical": "symbol"}[program.output]
    assert shape == f"{config['n_layers']} × {config['n_heads']}"
    assert [int(cell) for cell in edges] == [truth.n_edges, truth.n_readable, len(truth.edges)]
    assert only.startswith("yes" if truth.unique else "no") and ("all sets" in only) == truth.every_set_tried
