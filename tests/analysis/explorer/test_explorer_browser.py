"""The explorer in a real browser: what it shows is what the file holds, and every control does what it says."""

from __future__ import annotations

from fnmatch import fnmatchcase

import networkx as nx
import pytest

from analysis.structure.paths import strongest_paths
from circuitgraph.circuits.circuit import Circuit
from tests.analysis.explorer.kept_edges import Kept, kept_edges, names, nodes_of
from tests.analysis.explorer.shown import Shown
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def heads_and_mlps(edges: list[Kept]) -> list[int]:
    writers = {edge.source: edge.writer_kind for edge in edges}
    return [sum(kind == wanted for kind in writers.values()) for wanted in ("head", "mlp")]


CIRCUIT, OTHER = random_circuit("gqa", 2), random_circuit("gqa", 1)


@pytest.fixture(scope="module")
def single_page(kept_open) -> Shown:
    return kept_open(CIRCUIT)


@pytest.fixture
def shown(single_page) -> Shown:
    """The page of `CIRCUIT`, as if just opened."""
    return single_page.start_over()


@pytest.fixture(scope="module")
def pair_page(kept_open) -> Shown:
    return kept_open({"one": CIRCUIT, "other": OTHER})


@pytest.fixture
def both(pair_page) -> Shown:
    """The page of `CIRCUIT` and `OTHER`, as if just opened."""
    return pair_page.start_over()


@pytest.fixture(scope="module")
def edges(tmp_path_factory) -> list[Kept]:
    return kept_edges(CIRCUIT, tmp_path_factory.mktemp("circuit"))


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> list[Kept]:
    return kept_edges(OTHER, tmp_path_factory.mktemp("circuit"))


@pytest.mark.parametrize("name", ["gqa", "split", "joint", "parallel"])
def test_counts_are_those_of_the_file(explore, tmp_path, name):
    circuit = random_circuit(name, 1)
    edges = kept_edges(circuit, tmp_path)
    shown = explore(circuit)
    assert shown.numbers() == [len(edges), len(edges), *heads_and_mlps(edges)]
    assert shown.drawn() == len(edges)
    shown.page.click("#turn")
    kinds = {kind: sum(edge.kind == kind for edge in edges) for kind in shown.box_counts("kinds")}
    assert shown.box_counts("kinds") == kinds and sum(kinds.values()) == len(edges)
    writers = {kind: sum(edge.writer_kind == kind for edge in edges) for kind in ("embedding", "head", "mlp")}
    assert shown.box_counts("writers") == writers


class TestFilters:
    @pytest.mark.parametrize("kind", ["q", "k", "v", "mlp", "logits"])
    def test_by_kind(self, shown, edges, kind):
        shown.page.uncheck(f'#kinds input[value="{kind}"]')
        assert shown.n_edges == shown.drawn() == sum(edge.kind != kind for edge in edges) < len(edges)
        shown.page.click("#reset")
        assert shown.n_edges == len(edges)

    def test_by_writer_and_what_the_others_leave(self, shown, edges):
        shown.page.uncheck('#writers input[value="mlp"]')
        left = [edge for edge in edges if edge.writer_kind != "mlp"]
        assert shown.numbers() == [len(left), len(edges), *heads_and_mlps(left)]
        assert shown.box_counts("writers")["mlp"] == len(edges) - len(left)
        assert shown.box_counts("kinds")["v"] == sum(edge.kind == "v" for edge in left)

    def test_by_score_and_sign(self, shown, edges):
        threshold = sorted(abs(edge.score) for edge in edges)[len(edges) // 3]
        shown.page.fill("#min-score", repr(threshold))
        strong = [edge for edge in edges if abs(edge.score) >= threshold]
        assert shown.n_edges == len(strong) == len(edges) - len(edges) // 3
        for sign, factor in (("positive", 1), ("negative", -1)):
            shown.choose("#sign", sign)
            assert shown.n_edges == sum(factor * edge.score > 0 for edge in strong) > 0

    def test_the_slider_hides_a_share_of_the_edges(self, shown, edges):
        shown.page.locator("#strongest").fill("500")
        half = round(len(edges) / 2)
        shown.until(f"document.getElementById('counts').textContent.startsWith('{len(edges) - half} of')")
        rest = sorted(abs(edge.score) for edge in edges)[half:]
        assert [abs(float(row[3].replace("−", "-"))) for row in shown.rows()] == pytest.approx(rest[::-1], rel=1e-3)

    @pytest.mark.parametrize(
        ("field", "value"), [("writer-from", 0), ("writer-to", 0), ("reader-from", 1), ("reader-to", 1)]
    )
    def test_by_layer(self, shown, edges, field, value):
        shown.choose(f"#{field}", value)
        side, end = field.split("-")
        layers = [edge.writer_layer if side == "writer" else edge.reader_layer(2) for edge in edges]
        expected = sum(layer >= value if end == "from" else layer <= value for layer in layers)
        assert shown.n_edges == shown.drawn() == expected < len(edges)

    def test_nothing_left_is_said(self, shown):
        assert shown.page.is_hidden("#empty")
        shown.page.fill("#min-score", "1e9")
        assert shown.numbers()[0] == 0 and shown.text("#empty") == "No edge passes the filters."


class TestSelection:
    @pytest.mark.parametrize("name", ["a0.h1", "a1.h3", "m0"])
    def test_paths_in_and_out_are_those_of_networkx(self, shown, name):
        graph = CIRCUIT.graph
        shown.click_node(name)
        writers = {node for node in graph if "<" not in node and ".kv" not in node}
        for word, reached in (("upstream", nx.ancestors(graph, name)), ("downstream", nx.descendants(graph, name))):
            part = graph.subgraph(reached | {name})
            n_edges = sum(kind != "structural" for *_, kind in part.edges(data="kind"))
            # The heads' own names stand for their ports; an MLP and the logits are their own readers.
            n_nodes = len(reached & writers)
            assert f"{word}: {n_nodes} node{'s' * (n_nodes != 1)}, {n_edges} edge" in shown.text(f"#{word}")

    @pytest.mark.parametrize("name", ["a0.h1", "a1.h3", "m0"])
    def test_the_strongest_path_is_the_librarys(self, shown, name):
        best = strongest_paths(CIRCUIT, 1, through=name).iloc[0]
        shown.click_node(name)
        assert shown.strongest_path() == [node for node in best["nodes"] if "<" not in node]
        marked = shown.page.evaluate("explorer.graph.edges('.on-path[number >= 0]').length")
        assert marked == best["n_edges"]

    def test_direct_edges_and_one_side(self, shown, edges):
        shown.click_node("m0")
        shown.choose('[data-view="extent"]', "direct")
        n_in, n_out = sum(edge.target == "m0" for edge in edges), sum(edge.source == "m0" for edge in edges)
        assert shown.drawn() == n_in + n_out
        shown.choose('[data-view="side"]', "in")
        assert shown.drawn() == n_in
        shown.page.click("#selection button[aria-label='Clear selection']")
        assert shown.page.is_hidden("#selection") and shown.drawn() == len(edges)

    def test_a_filter_narrows_the_paths(self, shown, edges):
        shown.click_node("m1")
        shown.page.uncheck('#kinds input[value="mlp"]')
        # Nothing goes into it any more.
        assert "0 edges" in shown.text("#upstream")
        assert "No path" in shown.text("#selection")

    def test_by_hand_path_and_tooltips(self, explore):
        shown = explore(hand_circuit())
        # Through the query: sizes 3, 4, 6; through the key, over m0 and a0.h1: 2, 4, 5, 6; over m0 alone: 1, 5, 6.
        shown.click_node("a1.h0")
        assert shown.strongest_path() == ["input", "a0.h0", "a1.h0", "logits"]
        assert "weakest |score| 3" in shown.text("#selection")
        shown.page.keyboard.press("Escape")
        shown.page.mouse.move(*shown.place_of("a1.h0"))
        shown.page.wait_for_selector("#tooltip:not([hidden])")
        # One count, as in the panel: the query, and the key that it shares.
        shared = "1 of those in go into the key and value it shares"
        assert shown.text("#tooltip") == f"a1.h0\nattention head in layer 1\n2 in, 1 out\n{shared}"
        middle = shown.page.evaluate("explorer.graph.edges().filter(e => e.data('kind') === 'k')[0].renderedMidpoint()")
        box = shown.page.locator("#graph").bounding_box()
        shown.page.mouse.move(box["x"] + middle["x"], box["y"] + middle["y"])
        shown.until("document.getElementById('tooltip').textContent.startsWith('m0')")
        assert shown.text("#tooltip") == "m0 → a1.kv0<k>\nkey\nscore −5"


class TestTwoCircuits:
    def test_every_choice_has_its_edges(self, both, edges, others):
        shown, one, other = both, names(edges), names(others)
        expected = {
            "a": one.keys(),
            "b": other.keys(),
            "shared": one.keys() & other.keys(),
            "only-a": one.keys() - other.keys(),
            "only-b": other.keys() - one.keys(),
            "union": one.keys() | other.keys(),
        }
        assert len({len(members) for members in expected.values()}) == 6
        for name, members in expected.items():
            shown.pick_set(name)
            assert shown.n_edges == shown.drawn() == len(members), name
            chosen = {tuple(row[:2]) for row in shown.rows()}
            assert chosen == set(members), name
        shown.pick_set("shared")
        shown.page.uncheck('#kinds input[value="v"]')
        assert shown.n_edges == sum((one[edge].kind != "v") for edge in expected["shared"])

    def test_scores_of_both_and_their_mean(self, both, edges, others):
        shown, one, other = both, names(edges), names(others)
        shown.pick_set("union")
        for source, target, _, score, *own in shown.rows():
            scores = [side[source, target].score for side in (one, other) if (source, target) in side]
            told = [float(text.replace("−", "-")) for text in own if text != "–"]
            assert told == pytest.approx(scores, rel=1e-3)
            assert float(score.replace("−", "-")) == pytest.approx(sum(scores) / len(scores), rel=1e-3, abs=1e-6)

    def test_both_legends_and_colours_by_circuit(self, both):
        shown = both
        assert "A: one" in shown.text("#facts") and "B: other" in shown.text("#facts")
        assert "only one" not in shown.text("#legend")
        shown.pick_set("union")
        assert "only one" in shown.text("#legend")
        drawn = "explorer.graph.edges('[number >= 0]').map(edge => [edge.data('member'), edge.style('line-color')])"
        colours = dict(map(tuple, shown.page.evaluate(drawn)))
        assert len(set(colours.values())) == len(colours) == 3
        # None of them is a colour of query, key or value.
        kinds = {shown.variable(kind) for kind in ("q", "k", "v", "mlp")}
        assert not kinds & {shown.variable(name) for name in ("only-a", "only-b", "shared")}

    def test_identical_circuits_differ_in_nothing(self, explore):
        shown = explore([CIRCUIT, CIRCUIT])
        shown.pick_set("only-a")
        assert shown.n_edges == 0 and shown.text("#empty") == "There is no edge in only A."


class TestSearch:
    @pytest.mark.parametrize("query", ["a1.h3", "a1.*", "m*", "h0", "a0", "A0.H1", "a?.h1, m1", "kv0"])
    def test_names_and_wildcards(self, shown, edges, query):
        shown.search(query)
        words = query.lower().replace(",", " ").split()
        expected = {
            node
            for node in nodes_of(edges)
            if any(fnmatchcase(part, word) for word in words for part in (node, *node.split(".") * ("." in node)))
        }
        assert set(shown.found()) == expected != set()
        assert shown.text("#matches").startswith(f"{len(expected)} node")

    def test_enter_goes_through_the_matches(self, shown):
        shown.search("m*")
        for expected in ("m0", "m1", "m0"):
            shown.page.press("#query", "Enter")
            assert shown.text("#selection h2") == expected
        shown.search("(a[")
        assert shown.text("#matches") == "no shown node fits"


@pytest.mark.parametrize("by", ["Score", "Writer"])
def test_the_table_is_sorted_by_any_column(shown, edges, by):
    assert len(shown.rows()) == len(edges)
    column = 0 if by == "Writer" else 3
    key = (lambda text: list(CIRCUIT.universe.writers).index(text)) if column == 0 else _size
    ranks = [key(row[column]) for row in shown.rows()]
    if column == 3:
        assert ranks == sorted(ranks, reverse=True)
    shown.page.click(f"#table th:has-text('{by}') button")
    ranks = [key(row[column]) for row in shown.rows()]
    assert ranks == sorted(ranks) and len(set(ranks)) > 1
    assert shown.page.get_attribute(f"#table th:has-text('{by}')", "aria-sort") == "ascending"


def _size(text: str) -> float:
    return abs(float(text.replace("−", "-")))


def test_what_is_left_out_is_said(explore, shown):
    assert shown.page.is_hidden("#left-out")
    cut = explore(CIRCUIT, max_edges=15)
    assert 0 < cut.n_edges <= 15
    assert f"{cut.n_edges} of {len(CIRCUIT)}" in cut.text("#left-out")


def test_an_empty_circuit_is_a_page(explore):
    shown = explore(Circuit.from_edges(UNIVERSES["gqa"], []))
    assert shown.numbers() == [0, 0, 0, 0]
    assert shown.text("#empty") == "This circuit has no edges."
    shown.page.focus("#graph")
    shown.page.keyboard.press("ArrowRight")
    shown.page.click("#fit")
