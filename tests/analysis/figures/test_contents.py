"""What figures show, against the data: pictures, bars, lines and the numbers written into them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.figures.density import block_density_figure
from analysis.figures.faithfulness import curves_figure
from analysis.figures.inclusion import inclusion_figure
from analysis.figures.layers import MOST_BARS, layer_counts_figure
from analysis.figures.overlap import overlap_figure
from analysis.overlap.matrices import cluster
from analysis.sparsity import block_density
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.node_names import node_layer
from circuitgraph.graph.universe import Universe
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

pytestmark = pytest.mark.slow


def picture(axes: Axes) -> np.ma.MaskedArray:
    (image,) = axes.images
    return np.ma.masked_invalid(image.get_array())


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def layer_of(name: str, n_layers: int) -> int:
    layer = node_layer(name)
    return layer if layer is not None else (n_layers if name == "logits" else -1)


# -------------------------------------------------------------------- density


@pytest.mark.parametrize("name", ["gqa", "split", "parallel"])
def test_blocks_are_counted_edge_by_edge(name: str) -> None:
    circuit = random_circuit(name, 3)
    universe, n_layers = circuit.universe, circuit.universe.n_layers
    kept, total = Counter(), Counter()
    for index in range(universe.n_edges):
        writer, reader = universe.edge_name(index).split("->")
        block = (layer_of(reader, n_layers), layer_of(writer, n_layers) + 1)
        total[block] += 1
        kept[block] += f"{writer}->{reader}" in circuit
    shown = picture(block_density_figure(circuit).axes[0])
    assert {tuple(place) for place in np.argwhere(~shown.mask).tolist()} == set(total)
    for block, number in total.items():
        assert shown[block] == pytest.approx(kept[block] / number)


def test_a_table_will_do_and_its_kinds_are_added_up() -> None:
    circuits = {"a": random_circuit("mqa", 1), "b": random_circuit("mqa", 2)}
    figure = block_density_figure(block_density(circuits, kinds=True))
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    for axes, circuit in zip(panels, circuits.values(), strict=True):
        alone = block_density_figure(circuit).axes[0]
        np.testing.assert_allclose(picture(axes).filled(-1), picture(alone).filled(-1))
    assert panels[0].images[0].norm.vmax == panels[1].images[0].norm.vmax


def test_axes_from_outside_take_one_circuit() -> None:
    figure = Figure()
    axes = figure.subplots()
    assert block_density_figure(hand_circuit(), axes=axes) is figure
    assert axes.images
    with pytest.raises(ConfigurationError, match="axes= holds one panel, and 2 are needed"):
        block_density_figure([hand_circuit(), hand_circuit()], axes=axes)
    with pytest.raises(UnknownNameError, match="unknown column 'reader_layer'"):
        block_density_figure(block_density(hand_circuit()).drop(columns="reader_layer"))


def test_an_empty_circuit_has_blocks_of_nothing() -> None:
    shown = picture(block_density_figure(Circuit.from_edges(UNIVERSES["mha"], [])).axes[0])
    assert set(shown.compressed()) == {0.0}


# -------------------------------------------------------------------- overlap


def square(values: list[list[float]]) -> pd.DataFrame:
    names = list("abcdefgh")[: len(values)]
    return pd.DataFrame(values, index=names, columns=names)


def test_the_square_and_its_numbers() -> None:
    table = square([[1, 0.25, np.nan], [0.5, 1, 0.125], [0, 0.75, 1]])
    (axes, *_) = overlap_figure(table, label="containment").axes
    np.testing.assert_array_equal(picture(axes).filled(-1), table.fillna(-1))
    written = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    assert written[1, 0] == "0.25"
    assert written[2, 0] == "–"
    assert written[0, 2] == "0.00"
    assert not list(overlap_figure(table, values=False).axes[0].texts)


def test_counts_are_written_whole() -> None:
    texts = overlap_figure(square([[1200, 7], [7, 30]])).axes[0].texts
    assert [text.get_text() for text in texts] == ["1,200", "7", "7", "30"]


def test_clusters_give_the_order_and_the_tree() -> None:
    table = square([[1, 0.1, 0.8, 0.2], [0.1, 1, 0.1, 0.6], [0.8, 0.1, 1, 0.3], [0.2, 0.6, 0.3, 1]])
    clusters = cluster(table)
    figure = overlap_figure(clusters, tree=True)
    (axes, *_) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == list(clusters.names) == [text.get_text() for text in axes.get_xticklabels()]
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset("ac"), frozenset("bd")}
    np.testing.assert_allclose(picture(axes), table.loc[names, names])
    above = next(inset for inset in axes.child_axes if not inset.axison)
    (tree,) = [lines for lines in above.collections if isinstance(lines, LineCollection)]
    tops = sorted(float(path.vertices[:, 1].max()) for path in tree.get_paths())
    # Average linkage by hand: a with c at 0.2, b with d at 0.4, all at the mean of 0.9, 0.8, 0.9 and 0.7.
    np.testing.assert_allclose(tops, [0.2, 0.4, 0.825])
    feet = {round(float(x), 6) for path in tree.get_paths() for x, y in path.vertices if y == 0}
    assert feet == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (square([[1, 0], [0, 1]]).iloc[:1], {}, "expected a square table"),
        (square([[np.nan]]), {}, "every value of the table is missing"),
        (square([[1]]), {"tree": True}, "a tree needs clusters; pass analysis.cluster"),
    ],
)
def test_tables_that_cannot_be_drawn(table: pd.DataFrame, options: dict[str, bool], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        overlap_figure(table, **options)


# -------------------------------------------------------------------- curves


def runs() -> pd.DataFrame:
    rows = [
        ("pruning", 0.5, 0.1), ("pruning", 0.5, 0.3), ("pruning", 0.9, 0.4), ("pruning", 1.0, 1.0),
        ("patching", 0.25, 0.5), ("patching", 0.9, 1.5), ("one", 0.7, 0.2),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "sparsity", "kl"])


def test_lines_go_through_means_and_bands_span_the_seeds() -> None:
    (axes,) = curves_figure(runs(), by="method").axes
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in axes.lines if line.get_linestyle() != "None"}
    assert lines[0.5, 0.9, 1.0] == pytest.approx((0.2, 0.4, 1.0))
    assert lines[0.25, 0.9] == (0.5, 1.5)
    assert lines[(0.7,)] == (0.2,)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} >= {(0.5, 0.1), (0.5, 0.3)}


def test_areas_are_those_of_the_common_range() -> None:
    (axes,) = curves_figure(runs(), by="method").axes
    # From 0.5 to 0.9: (0.2 + 0.4) / 2 x 0.4, and patching at 0.5 is 0.5 + 0.25 / 0.65.
    patching = (0.5 + 0.25 / 0.65 + 1.5) / 2 * 0.4
    assert legend_of(axes) == ["pruning (AUC 0.12)", f"patching (AUC {patching:.3g})", "one"]
    assert axes.get_legend().get_title().get_text() == "AUC from 0.5 to 0.9"  # type: ignore[union-attr]
    narrow = curves_figure(runs(), by="method", limits=(0.5, 0.6)).axes[0]
    assert legend_of(narrow)[0] == "pruning (AUC 0.0225)"


def test_curves_without_a_common_range_have_no_area() -> None:
    apart = pd.DataFrame({"m": list("aabb"), "sparsity": [0.1, 0.2, 0.3, 0.4], "kl": [1.0, 2, 3, 4]})
    (axes,) = curves_figure(apart, by="m").axes
    assert legend_of(axes) == ["a", "b"]


def test_the_front_is_ringed() -> None:
    table = runs().assign(on_front=[True, False, True, True, False, False, False])
    (axes,) = curves_figure(table, by="method", log=True).axes
    (rings,) = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert list(zip(rings.get_xdata(), rings.get_ydata(), strict=True)) == [(0.5, 0.1), (0.9, 0.4), (1.0, 1.0)]
    assert legend_of(axes)[-1] == "Pareto front"
    assert axes.get_yscale() == "log"


def test_a_curve_looks_the_same_in_every_panel() -> None:
    table = pd.concat([runs().assign(task="ioi"), runs().iloc[4:].assign(task="sva")])
    left, right = curves_figure(table, by="method", panels="task").axes
    look = {tuple(line.get_ydata()): (line.get_color(), line.get_marker()) for line in left.lines}
    for line in right.lines:
        assert look[tuple(line.get_ydata())] == (line.get_color(), line.get_marker())
    assert right.get_legend().get_title().get_text() == "sva; AUC from 0.25 to 0.9"  # type: ignore[union-attr]


def test_a_logarithm_of_nothing() -> None:
    with pytest.raises(ConfigurationError, match="a logarithmic scale needs values above 0"):
        curves_figure(runs().assign(kl=0.0), log=True)


# -------------------------------------------------------------------- layers


def counted(circuit: Circuit) -> Counter[tuple[str, int]]:
    n_layers = circuit.universe.n_layers
    return Counter(
        (kind, layer_of(reader, n_layers)) for (_, reader), kind in zip(circuit.edges, circuit.kinds, strict=True)
    )


@pytest.mark.parametrize("name", ["gqa", "joint"])
def test_stacks_are_the_edges_into_each_layer(name: str) -> None:
    circuit = random_circuit(name, 5)
    (axes,) = layer_counts_figure(circuit).axes
    expected = counted(circuit)
    heights: dict[int, list[float]] = {}
    for bar in axes.patches:
        heights.setdefault(round(bar.get_x() + bar.get_width() / 2), []).append(bar.get_height())
    for layer, stack in heights.items():
        of_layer = {kind: number for (kind, place), number in expected.items() if place == layer}
        assert sorted(filter(None, stack)) == sorted(of_layer.values())
    assert sum(map(sum, heights.values())) == len(circuit)
    assert len(legend_of(axes)) == len(set(circuit.universe.reader_kinds))


def test_many_circuits_become_rows() -> None:
    circuits = {f"seed {seed}": random_circuit("gqa", seed) for seed in range(MOST_BARS + 1)}
    circuits["none"] = Circuit.from_edges(UNIVERSES["gqa"], [])
    kinds, layers = layer_counts_figure(circuits).axes
    for row, circuit in enumerate(circuits.values()):
        of_layer = Counter(layer for _, layer in counted(circuit).elements())
        assert picture(layers)[row].tolist() == [of_layer[layer] for layer in range(3)]
        of_kind = Counter(kind for kind, _ in counted(circuit).elements())
        if len(circuit):
            shares = [100 * of_kind[kind] / len(circuit) for kind in ("q", "k", "v", "mlp", "logits")]
            np.testing.assert_allclose(picture(kinds)[row], shares)
    assert picture(kinds)[-1].mask.all()
    assert len(kinds.texts) == 5 * (MOST_BARS + 1)


# -------------------------------------------------------------------- inclusion


def test_inclusion_counts_every_edge() -> None:
    circuits = [random_circuit("mqa", seed) for seed in range(5)]
    counts = Counter(edge for circuit in circuits for edge in circuit)
    numbers, layers = inclusion_figure(circuits).axes
    assert [bar.get_height() for bar in numbers.patches] == [list(counts.values()).count(n) for n in range(1, 6)]
    classes = {edge: 0 if count == 5 else 1 if count >= 3 else 2 for edge, count in counts.items()}
    n_layers = UNIVERSES["mqa"].n_layers
    ends = Counter((classes[edge], layer_of(edge.split("->")[1], n_layers)) for edge in counts)
    drawn = [[bar.get_height() for bar in bars] for bars in layers.containers]
    assert drawn == [[ends[place, layer] for layer in range(n_layers + 1)] for place in range(3)]
    assert legend_of(layers) == ["in all", "in at least half", "in fewer"]


def test_inclusion_of_nothing_and_on_the_wrong_axes() -> None:
    with pytest.raises(ConfigurationError, match="the table is empty"):
        inclusion_figure(Circuit.from_edges(Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1), []))
    with pytest.raises(ConfigurationError, match="axes: expected two"):
        inclusion_figure(hand_circuit(), axes=[Figure().subplots()])
