"""Tables as JSON, CSV, LaTeX and Markdown, whatever the circuits are called, and circuits' short names."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from circuitgraph.cli.circuit_files import named_files
from circuitgraph.cli.output import print_table
from circuitgraph.cli.tables import ResultTable, TableFormat
from circuitgraph.errors import ConfigurationError
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.saved_circuits import save_all

HOSTILE = (
    "<script>alert('x')</script>", 'quo"te', "pipe|d", r"\input{/etc/passwd}", "per%cent & $x_1^2$ #~`",
    "[1] *bold* _it_ ![a](b)", "line\nbreak", "\x1b[31mred\x07", "100 <b>&amp;",
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_all(tmp_path_factory.mktemp("saved"))


def one_line(name: str) -> str:
    return " ".join(name.split())


def sizes(saved: Path, *arguments: object) -> str:
    """Sizes of a circuit under every hostile name."""
    ended = call("sparsity", *(f"{name}={saved / 'a.json'}" for name in HOSTILE), *arguments)
    assert ended.code == 0, ended.err
    return ended.out


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv", "latex", "markdown"])
def test_what_programs_read_is_utf8_whatever_the_terminal_takes(saved, form):
    name = "Zoë 本 ☃"
    command = [sys.executable, "-m", "circuitgraph.cli", "sparsity", f"{name}={saved / 'a.json'}", f"--{form}"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    text = done.stdout.decode("utf-8")
    assert name in text
    if form == "json":
        assert json.loads(text)["circuits"][0]["name"] == name


class TestHostileNames:
    def test_json_and_csv_hold_them_as_they_are(self, saved):
        found = json.loads(sizes(saved, "--json"))
        assert [circuit["name"] for circuit in found["circuits"]] == list(HOSTILE)
        rows = list(csv.DictReader(io.StringIO(sizes(saved, "--csv"), newline="")))
        assert list(dict.fromkeys(row["circuit"] for row in rows)) == list(HOSTILE)

    def test_markdown_shows_them_as_they_are(self, saved):
        tokens = MarkdownIt("commonmark").enable("table").parse(sizes(saved, "--markdown"))
        cells = [tokens[place + 1] for place, token in enumerate(tokens) if token.type == "td_open"]
        assert len(cells) == len(HOSTILE) * 6 * 7
        shown = []
        for cell in cells[::7]:
            # Nothing but text: no markup, no HTML, no links.
            assert {child.type for child in cell.children or ()} <= {"text", "text_special"}, cell.content
            shown.append("".join(child.content for child in cell.children or ()))
        assert list(dict.fromkeys(shown)) == [one_line(name) for name in HOSTILE]

    def test_latex_holds_no_command_but_ours(self, saved):
        text = sizes(saved, "--latex")
        ours = r"\\begin|\\end|\\centering|\\caption|\\toprule|\\midrule|\\bottomrule|\\text[a-z]+\{\}|\\[{}$&#%_`\\]"
        bare = re.sub(ours, "", text)
        assert "\\" not in bare
        rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")][1:]
        assert len(rows) == len(HOSTILE) * 6
        for row in rows:
            # Cells are parted by bare ampersands, and nothing else in them means something to TeX.
            assert len(re.split(r"(?<!\\)&", row)) == 7
            assert not re.search(r"(?<!\\)[#%_$]", re.sub(r"\$-?[\d.]+\$", "", row))
            assert not re.search(
                r"[\^~<>|\"]|^[\[*]", row.replace(r"\textasciicircum", "").replace(r"\textasciitilde", "")
            )
            assert re.sub(r"\\[{}]", "", row).count("{") == re.sub(r"\\[{}]", "", row).count("}")
        assert r"\textbackslash{}input\{/etc/passwd\}" in text

    def test_a_terminal_is_not_steered(self, saved):
        text = sizes(saved)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
        assert r"\x1b[31mred\x07" in text
        assert r"line\nbreak" in text

    def test_comparisons_and_titles(self, saved):
        given = [f"{name}={saved / file}" for name, file in ((HOSTILE[3], "a.json"), (HOSTILE[0], "tuned.json"))]
        for option in ("--latex", "--markdown", "--json", "--csv"):
            ended = call("compare", *given, "--level", "edges", "--null", "stratified", "--across-checkpoints", option)
            assert ended.code == 0, ended.err
        latex = call("compare", *given, "--level", "edges", "--across-checkpoints", "--latex").out
        assert r"\input" not in latex
        assert r"From \textbackslash{}input\{/etc/passwd\} to \textless{}script\textgreater{}" in latex
        markdown = call("compare", *given, "--level", "edges", "--across-checkpoints", "--markdown").out
        assert "<script>" not in MarkdownIt("commonmark").enable("table").render(markdown)

    def test_hostile_queries_and_provenance(self, saved, tmp_path):
        values = json.loads((saved / "a.json").read_text())
        values["universe"]["family"] = values["graph"]["universe"]["family"] = r"<script>\input{x}|"
        values["provenance"] |= {"model": "<script>\n", "task": 'a"b\x00|'}
        (tmp_path / "c.json").write_text(json.dumps(values))
        found = json.loads(call("find", tmp_path / "c.json", "m1, !m0", "--json").out)
        assert found["circuits"][0]["model"] == "<script>\n"
        ended = call("compare", tmp_path / "c.json", saved / "a.json")
        assert ended.code == 2
        assert "family: '<script>" in ended.err
        for suffix in ("graphml", "gexf", "json", "cyjs"):
            assert call("export", tmp_path / "c.json", "--out", tmp_path / f"graph.{suffix}").code == 0


class TestFormats:
    def test_the_ending_of_the_file_decides(self, saved, tmp_path):
        begins = {"json": "{", "csv": "circuit,", "tex": r"\begin{table}", "md": "Size", "txt": "\nSize"}
        for suffix, first in begins.items():
            out = tmp_path / f"table.{suffix}"
            ended = call("sparsity", saved / "a.json", "--out", out)
            assert ended.code == 0, ended.err
            assert ended.out == ""
            assert f"Written to {out}" in ended.err
            assert out.read_text().startswith(first)
        assert call("sparsity", saved / "a.json", "--out", tmp_path / "x", "--latex").code == 0
        assert (tmp_path / "x").read_text() == (tmp_path / "table.tex").read_text()

    def test_numbers_as_people_read_them(self):
        frame = pd.DataFrame(
            {
                "name": ["a3.h7<q>", "b"], "n": [12345, 1], "share": pd.array([0.25, None], dtype="Float64"),
                "log10_p": [-200.5, -0.30103], "on": [True, False],
            }
        )  # fmt: skip
        shown = {name: name for name in frame}
        numbers, rows = ResultTable(name="x", title="x", frame=frame, shown=shown).cells
        assert numbers == [False, True, True, True, False]
        assert rows == [["a3.h7<q>", "12,345", "0.250", "3.2e-201", "yes"], ["b", "1", "–", "0.500", "no"]]

    def test_tables_of_booktabs(self, saved):
        text = call("compare", saved / "a.json", saved / "b.json", "--null", "stratified", "--latex").out
        head, rule, *_ = text.splitlines()[5:]
        assert head == r"a & b & level & of a & of b & shared & in any & of all & IoU & a in b & b in a & Spearman \\"
        assert rule == r"\midrule"
        assert r"a & b & edges & 4 & 4 & 3 & 5 & 46 & 0.600 & 0.750 & 0.750 & $-1.000$ \\" in text
        assert r"a & b & nodes & 5 & 5 & 5 & 5 & " in text

    def test_a_table_without_rows(self, saved):
        assert call("find", saved / "empty.json", "m0", "--csv").out.startswith("edge,source,target")
        assert call("find", saved / "empty.json", "m0", "--json").json["edges"] == []
        assert "(none)" in call("find", saved / "empty.json", "m0").out
        assert r"\midrule" + "\n" + r"\bottomrule" in call("find", saved / "empty.json", "m0", "--latex").out


class TestNames:
    @pytest.mark.parametrize(
        ("given", "names"),
        [
            (["a.json", "runs/b.json"], ["a", "b"]),
            (["runs/ioi/circuit.json", "runs/capitals/circuit.json"], ["ioi", "capitals"]),
            (["x/ioi/1/circuit.json", "x/ioi/2/circuit.json"], ["1", "2"]),
            (["x/ioi/1/c.json", "x/gt/1/c.json"], ["ioi", "gt"]),
            (["circuit.json", "runs/circuit.json"], ["circuit", "runs"]),
            (["circuit.json", "../circuit.json"], ["circuit.json", "../circuit.json"]),
            (["ioi=a/circuit.json", "runs/capitals/circuit.json"], ["ioi", "capitals"]),
            (["full=a.json", "b.json"], ["full", "b"]),
        ],
    )
    def test_short_and_their_own(self, given, names):
        found = named_files(given)
        assert list(found) == names
        assert [path.name for path in found.values()] == [Path(text.split("=")[-1]).name for text in given]

    def test_a_file_with_an_equals_sign_is_a_file(self, tmp_path):
        path = tmp_path / "seed=1.json"
        path.write_text("{}")
        assert named_files([str(path)]) == {"seed=1": path}

    def test_two_of_one_name(self):
        with pytest.raises(ConfigurationError, match="two circuits are called 'x'; name them: NAME=FILE"):
            named_files(["x=a.json", "x=b.json"])


def test_one_format_at_a_time():
    with pytest.raises(ConfigurationError, match="got --csv and --markdown"):
        TableFormat.of(as_json=False, as_csv=True, as_latex=False, as_markdown=True, out=None)


def test_a_title_is_not_folded_to_a_narrow_table(capsys):
    print_table(["a"], [["1"]], title="Faithfulness of circuits [columns] on tasks (rows)")
    assert capsys.readouterr().out.splitlines()[0].rstrip() == "Faithfulness of circuits [columns] on tasks (rows)"
