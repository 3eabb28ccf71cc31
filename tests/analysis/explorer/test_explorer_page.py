"""The explorer as a page: keyboard, themes, small screens, paper, hostile names, and 5,000 edges."""

from __future__ import annotations

import re
import statistics
import xml.etree.ElementTree as ElementTree

import pytest

from circuitgraph.circuits.circuit import Circuit
from tests.analysis.explorer.kept_edges import kept_edges
from tests.analysis.explorer.shown import Shown
from tests.analysis.small_circuits import large_circuit, random_circuit

SVG = "{http://www.w3.org/2000/svg}"

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CIRCUIT, OTHER = random_circuit("gqa", 2), random_circuit("gqa", 1)
HOSTILE = [
    "<img src=x onerror=\"window.hacked = 'image'\"></script><script>window.hacked = 'script'</script>",
    "\"quotes\" 'and' \\back\\slashes &amp; &lt;b&gt; line\nbreaks\r\n\u2028\u2029 and %%contents%% <!-- <script>",
]


@pytest.fixture(scope="module")
def page(kept_open) -> Shown:
    return kept_open(CIRCUIT)


def focused(shown: Shown) -> str:
    return shown.page.evaluate("document.activeElement.id || document.activeElement.tagName")


class TestKeyboard:
    def test_from_search_to_selection_and_back(self, page):
        shown, keys = page.start_over(), page.page.keyboard
        shown.page.evaluate("document.activeElement.blur()")
        keys.press("/")
        assert focused(shown) == "query" and shown.page.input_value("#query") == ""
        keys.type("a1.h3")
        keys.press("Enter")
        assert shown.text("#selection h2") == "a1.h3"
        assert shown.text("#announcer").startswith("Selected a1.h3, attention head in layer 1.")
        keys.press("Escape")
        assert shown.page.is_hidden("#selection") and shown.page.input_value("#query") == ""
        assert shown.text("#announcer") == "Selection cleared."

    def test_arrows_move_and_enter_selects(self, page):
        shown, keys = page.start_over(), page.page.keyboard
        shown.page.focus("#graph")
        keys.press("Home")
        visited = [shown.text("#announcer").partition(",")[0]]
        assert visited == ["input"]
        for _ in range(12):
            keys.press("ArrowRight")
            visited.append(shown.text("#announcer").partition(",")[0])
        assert visited[-1] == "logits"
        places = [shown.place_of(name)[0] for name in dict.fromkeys(visited)]
        assert places == sorted(places) and len(places) >= 4
        keys.press("ArrowLeft")
        cursor = shown.text("#announcer").partition(",")[0]
        assert shown.page.evaluate("explorer.graph.nodes('.cursor').map(node => node.data('full'))") == [cursor]
        keys.press("Enter")
        assert shown.text("#selection h2") == cursor != "logits"

    def test_up_and_down_stay_among_heads(self, page):
        shown, keys = page.start_over(), page.page.keyboard
        shown.page.focus("#graph")
        shown.search("a0.h1")
        shown.page.press("#query", "Enter")
        shown.page.focus("#graph")
        keys.press("ArrowDown")
        assert shown.text("#announcer").startswith("a0.h2, ")
        keys.press("ArrowUp")
        keys.press("ArrowUp")
        assert shown.text("#announcer").startswith("a0.h0, ")

    def test_zoom_and_pan(self, page):
        shown, keys = page.start_over(), page.page.keyboard
        shown.page.focus("#graph")
        zoom = "explorer.graph.zoom()"
        keys.press("0")
        whole = shown.page.evaluate(zoom)
        keys.press("+")
        assert shown.page.evaluate(zoom) == pytest.approx(1.25 * whole)
        keys.press("-")
        assert shown.page.evaluate(zoom) == pytest.approx(whole)
        before = shown.page.evaluate("explorer.graph.pan().x")
        keys.press("Shift+ArrowRight")
        assert shown.page.evaluate("explorer.graph.pan().x") == before - 60

    def test_tab_reaches_every_control_and_shows_where(self, page):
        shown = page.start_over()
        shown.page.evaluate("document.body.focus(); document.getElementById('query').focus()")
        reached = ["query"]
        for _ in range(60):
            shown.page.keyboard.press("Tab")
            if focused(shown) in ("BODY", reached[0]):
                break
            reached.append(focused(shown))
            style = "getComputedStyle(document.activeElement)"
            assert shown.page.evaluate(f"{style}.outlineStyle !== 'none' && parseFloat({style}.outlineWidth) >= 2")
        wanted = ["query", "graph", "zoom-in", "fit", "theme", "strongest", "min-score", "writer-from", "reset"]
        assert [name for name in reached if name in wanted] == wanted
        unnamed = shown.page.evaluate(
            "[...document.querySelectorAll('button, input, select')]"
            ".filter(x => !(x.getAttribute('aria-label') || x.labels?.length || x.textContent.trim())).length"
        )
        assert unnamed == 0


class TestThemes:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_colours_can_be_told_from_the_ground(self, explore, theme):
        shown = explore(CIRCUIT, theme=theme)
        assert shown.page.evaluate("document.documentElement.dataset.theme") == theme
        for ground, names, least in (
            ("page", ("ink", "soft", "accent"), 4.5),
            ("panel", ("ink", "soft", "accent"), 4.5),
            ("graph", ("q", "k", "v", "mlp", "logits", "only-a", "only-b", "shared", "path"), 3.0),
            ("head-fill", ("label",), 4.5),
            ("mlp-fill", ("label",), 4.5),
        ):
            for name in names:
                assert contrast(shown.variable(name), shown.variable(ground)) >= least, (name, ground)

    def test_the_switch_overrules_the_system(self, explore):
        shown = explore(CIRCUIT, theme="dark")
        line = "explorer.graph.edges('[kind = \"mlp\"]')[0].style('line-color')"
        dark = shown.page.evaluate(line), shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        shown.choose("#theme", "light")
        light = shown.page.evaluate(line), shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert light[1] == "rgb(255, 255, 255)" and dark[1] != light[1] and dark[0] != light[0]
        shown.choose("#theme", "auto")
        shown.page.emulate_media(color_scheme="light")
        shown.until("document.documentElement.dataset.theme === 'light'")


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours `#rrggbb`, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def hostile_circuit(text: str) -> Circuit:
    provenance = {"model": text, "task": text, "recipe": {"name": text}}
    return Circuit.from_edges(
        CIRCUIT.universe, CIRCUIT.edge_ids, scores=CIRCUIT.scores[:], provenance=provenance, ablation=CIRCUIT.ablation
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text(explore, text):
    shown = explore({text: hostile_circuit(text), f"{text}2": hostile_circuit(text)}, size=(400, 800))
    assert shown.page.evaluate("window.hacked") is None
    parts = shown.page.evaluate("['script', 'img', 'style'].map(name => document.querySelectorAll(name).length)")
    assert parts[:2] == [3, 1]
    assert shown.text("#title") == f"{text}: {text}"
    assert text in shown.page.eval_on_selector("#facts tbody td", "cell => cell.textContent")
    assert shown.page.title() == re.sub(r"[ \n\r]+", " ", f"{text}: {text}")
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 400


def test_at_400_pixels_nothing_needs_sideways_scrolling(explore):
    shown = explore({"one": CIRCUIT, "other": OTHER}, size=(400, 800))
    width = "document.documentElement.scrollWidth"
    assert shown.page.evaluate(width) == 400
    shown.search("m0")
    shown.page.press("#query", "Enter")
    assert shown.rows() and shown.page.evaluate(width) == 400
    # Taller than wide: the layers go from bottom to top.
    assert shown.place_of("input")[1] > shown.place_of("logits")[1]
    shown.page.click("#turn")
    assert shown.place_of("input")[0] < shown.place_of("logits")[0]


def test_paper_gets_a_light_picture_the_legend_and_no_controls(explore):
    shown = explore(CIRCUIT, theme="dark")
    printed = shown.page.pdf()
    assert printed.startswith(b"%PDF") and b"/Image" in printed
    shown.page.emulate_media(media="print")
    shown.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert shown.page.is_visible("#print-picture") and shown.page.is_visible("#legend")
    assert not any(shown.page.is_visible(name) for name in ("#graph", "#filters", "#tools", "#search"))
    shown.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert shown.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_picture_is_saved_without_the_network(explore):
    shown = explore(CIRCUIT)
    with shown.page.expect_download() as download:
        shown.page.click("#save")
    assert download.value.suggested_filename == "circuit.png"
    with open(download.value.path(), "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"
    with shown.page.expect_download() as download:
        shown.page.click("#save-svg")
    assert download.value.suggested_filename == "circuit.svg"
    tree = ElementTree.parse(download.value.path())
    told = " ".join(text.text or "" for text in tree.iter(f"{SVG}text"))
    for part in (shown.text("#title"), shown.text("#counts"), "query", "the wider", "oval: head"):
        assert part in told
    assert len(list(tree.iter(f"{SVG}path"))) >= len(CIRCUIT)


NOTHING_BEHIND = """() => {
  const graph = explorer.graph;
  const boxes = graph.nodes('[number >= 0]').map(node => (
    { id: node.id(), ...node.position(), w: node.width() / 2, h: node.height() / 2, kind: node.data('kind') }));
  const holds = (box, at) => {
    const [x, y] = [Math.abs(at.x - box.x) / box.w, Math.abs(at.y - box.y) / box.h];
    return box.kind === 'head' ? x * x + y * y < 1 : box.kind === 'group' ? x + y < 1 : x < 1 && y < 1;
  };
  const behind = [];
  graph.edges().filter(edge => edge.visible()).forEach(edge => {
    const controls = edge.controlPoints() || [];
    let from = edge.sourceEndpoint();
    controls.forEach((control, index) => {
      const next = controls[index + 1];
      const end = edge.targetEndpoint();
      const to = next ? { x: (control.x + next.x) / 2, y: (control.y + next.y) / 2 } : end;
      for (let step = 0; step <= 20; step += 1) {
        const u = step / 20;
        const at = key => (1 - u) ** 2 * from[key] + 2 * u * (1 - u) * control[key] + u * u * to[key];
        const point = { x: at('x'), y: at('y') };
        boxes.filter(box => box.id !== edge.source().id() && box.id !== edge.target().id() && holds(box, point))
          .forEach(box => behind.push(`${edge.source().data('full')} to ${edge.target().data('full')}: ${box.id}`));
      }
      from = to;
    });
  });
  return behind;
}"""


@pytest.mark.parametrize("name", ["mha", "split", "gqa", "mqa", "per_query", "joint", "parallel"])
def test_no_edge_passes_behind_a_node(explore, name):
    shown = explore(random_circuit(name, 3))
    assert shown.page.evaluate(NOTHING_BEHIND) == []
    shown.page.click("#turn")
    assert shown.page.evaluate(NOTHING_BEHIND) == []


def test_effects_are_a_column_and_a_width(explore):
    strongest = CIRCUIT.top(1, by="size")
    names = list(CIRCUIT)
    rows = [{"part": names[place], "in_circuit": {"kl": 0.25 * (place + 1)}} for place in (0, 1)]
    shown = explore({"c": CIRCUIT}, effects={"c": {"edges": rows}})
    assert [row[-1] for row in shown.rows()].count("–") == len(CIRCUIT) - 2
    shown.page.click("#table th:has-text('KL if cut alone') button")
    assert [row[-1] for row in shown.rows()][:2] == ["0.5", "0.25"]
    shown.choose("#width-by", "effect")
    widest = "explorer.graph.edges('[number >= 0]').max(edge => edge.data('width')).ele.data('number')"
    assert shown.page.evaluate(widest) == 1
    assert "KL rises" in shown.text("#width-note") and len(strongest) <= 1


def test_the_marked_path_goes_on_through_a_shared_key_and_value(explore):
    shown = explore(CIRCUIT)
    for number, node in enumerate(
        shown.page.evaluate("explorer.graph.nodes('[number >= 0]').map(n => n.data('full'))")
    ):
        if not node.startswith("a1.h"):
            continue
        shown.page.evaluate("document.activeElement.blur()")
        shown.click_node(node)
        steps = shown.page.evaluate("explorer.current.marks.path ? explorer.current.marks.path.nodes : []")
        kinds = [shown.page.evaluate(f"explorer.graph.getElementById('n{step}').data('kind')") for step in steps]
        marked = shown.page.evaluate("explorer.graph.edges('.structural.on-path').length")
        assert marked == kinds.count("group"), (number, node)
        shown.page.keyboard.press("Escape")


FRAMES = """async gesture => {
  const ground = document.getElementById('graph');
  const box = ground.getBoundingClientRect();
  const send = (target, type, made) => target.dispatchEvent(new made(type, {
    clientX: box.x + 400 + 6 * step, clientY: box.y + 8 + 4 * step, deltaY: -40, button: 0, buttons: 1, which: 1,
    bubbles: true, cancelable: true, view: window,
  }));
  let step = 0;
  const frames = [];
  if (gesture === 'pan') send(ground, 'mousedown', MouseEvent);
  for (let last = performance.now(); step < 20; step += 1) {
    if (gesture === 'pan') send(window, 'mousemove', MouseEvent);
    else send(ground, 'wheel', WheelEvent);
    await new Promise(requestAnimationFrame);
    frames.push(performance.now() - last);
    last = performance.now();
  }
  if (gesture === 'pan') send(window, 'mouseup', MouseEvent);
  return frames;
}"""


# Edges whose style is not what their data asks for.
OF_OTHERS = """() => explorer.graph.edges('[number >= 0]').filter((edge) => Object.entries({
    'control-point-weights': 'weights', 'control-point-distances': 'distances', width: 'width', opacity: 'opacity',
  }).some(([style, data]) => String(edge.pstyle(style).value) !== String(edge.data(data)))).map((edge) => edge.id())"""


@pytest.mark.slow
def test_five_thousand_edges_are_smooth(explore, tmp_path, record_property):
    circuit = large_circuit()
    edges = kept_edges(circuit, tmp_path)
    shown = explore(circuit, size=(1400, 850), max_edges=6000)
    # It opens with what can be looked at together; the rest is a click away.
    assert shown.n_edges == shown.drawn() == 150
    assert "150 of 5,323 edges shown, the strongest" in shown.text("#counts")
    shown.page.click("#show-all")
    assert shown.n_edges == shown.drawn() == len(edges) == len(circuit) >= 5000
    # Each edge has its own way, width and opacity: Cytoscape takes values of the same 32-bit hash for one another.
    assert shown.page.evaluate(OF_OTHERS) == []
    ready = shown.page.evaluate("performance.now()")
    before = shown.page.evaluate("({zoom: explorer.graph.zoom(), pan: explorer.graph.pan().x})")
    medians = {}
    for gesture in ("pan", "zoom"):
        medians[gesture] = statistics.median(shown.page.evaluate(FRAMES, gesture))
    after = shown.page.evaluate("({zoom: explorer.graph.zoom(), pan: explorer.graph.pan().x})")
    assert after["pan"] != before["pan"] and after["zoom"] > before["zoom"]
    record_property("seconds to ready", ready / 1000)
    record_property("milliseconds a frame", medians)
    # Some 20 ms a frame on two cores without a GPU; the bounds are for a machine with much else to do.
    assert ready < 120_000
    assert max(medians.values()) < 500
    shown.page.uncheck('#kinds input[value="v"]')
    assert shown.n_edges == sum(edge.kind != "v" for edge in edges)
    caption = shown.rows() and shown.text("#table caption")
    assert re.match(r"The first 200 of [\d,]+ edges shown", caption)
    shown.page.click("#more")
    assert len(shown.rows()) == 400
