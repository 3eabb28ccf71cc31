// The graph on its canvas: elements at the places they were given, zoom and pan, and what is marked in it.

const MAX_TEXTURED = 600;
const AXIS_LANES = 0.8;
const TOOLS_HEIGHT = 52;
const LEAST_LETTERS = 11;
let isUpright = false;
let graph = null;

// From places along and across the computation to the page: a quarter turn, so that curves bend the same way.
function position(along, across) {
  return isUpright ? { x: across, y: -along } : { x: along, y: across };
}

function graphElements() {
  const made = nodes.map((node, index) => ({
    group: 'nodes',
    data: { id: `n${index}`, number: index, kind: node.kind, full: node.id, label: node.kind === 'head' ? node.id.split('.')[1] : node.id },
    position: position(node.along, node.across),
  }));
  const shown = shownEdges();
  const looks = dressing(shown);
  edges.forEach((edge) => made.push({
    group: 'edges',
    data: {
      id: `e${edge.index}`, source: `n${edge.source}`, target: `n${edge.target}`, number: edge.index, kind: edge.kind,
      member: membership(edge), ...bendsOf(nodes[edge.source], nodes[edge.target], wayOf(edge)), ...(looks.get(edge) || { width: 1, opacity: 0.5 }),
    },
    classes: ['by-kind', looks.has(edge) ? '' : 'hidden', shown.length <= MAX_PATTERNED ? 'patterned' : ''],
  }));
  nodes.forEach((node, index) => (node.heads || []).forEach((head) => made.push({
    group: 'edges',
    data: {
      id: `s${index}-${head}`, source: `n${index}`, target: `n${head}`, kind: 'structural', width: 1.5, opacity: 0.6,
      ...bendsOf(node, nodes[head], stepWay(node, nodes[head])),
    },
    classes: nodes[head].across === node.across ? 'structural straight' : 'structural',
  })));
  return [...made, ...axisElements()];
}

// The numbers of the layers that have a node, before the first lane.
function axisElements() {
  const layers = [...new Set(nodes.map((node) => node.layer))].filter((layer) => layer >= 0 && layer < universe.n_layers);
  const across = -AXIS_LANES * contents.gaps.across;
  const labels = layers.map((layer) => ({ text: String(layer), along: (layer + contents.gaps.first) * contents.gaps.along }));
  if (labels.length) labels.push({ text: 'layer', along: (Math.min(...layers) + contents.gaps.first - 0.75) * contents.gaps.along });
  return labels.map((label, index) => ({
    group: 'nodes', data: { id: `axis${index}`, kind: 'axis', full: label.text, label: label.text, along: label.along, across },
    position: position(label.along, across), selectable: false, grabbable: false,
  }));
}

// Cytoscape keeps what it has parsed under a hash of 32 bits. Among the widths, opacities and bends of thousands of edges
// two share one now and then: an edge took another's value, of another property even, and was drawn wrongly or not at all.
// Only texts, which are few, are looked up; numbers are parsed each time.
function parseNumbersEachTime() {
  const styles = Object.getPrototypeOf(cytoscape({ headless: true, styleEnabled: true }).style());
  const parse = styles.parse;
  styles.parse = function parseEach(name, value, ...more) {
    return (typeof value === 'string' ? parse : this.parseImplWarn).call(this, name, value, ...more);
  };
}

function makeGraph() {
  parseNumbersEachTime();
  isUpright = byId('stage').clientHeight > byId('stage').clientWidth;
  graph = cytoscape({
    container: byId('graph'),
    elements: graphElements(),
    layout: { name: 'preset', fit: false },
    style: graphStyle(),
    ...viewOf(nodes),
    minZoom: 0.02,
    maxZoom: 6,
    boxSelectionEnabled: false,
    autoungrabify: true,
    autounselectify: true,
    textureOnViewport: edges.length > MAX_TEXTURED,
  });
}

// Zoom and pan that show some nodes with what is written before the first lane.
function viewOf(wanted) {
  const places = wanted.map((node) => position(node.along, node.across));
  places.push(...wanted.map((node) => position(node.along, wanted === nodes ? -AXIS_LANES * contents.gaps.across : node.across)));
  if (!places.length) return { zoom: 1, pan: { x: 0, y: 0 } };
  const [left, right] = [Math.min(...places.map(({ x }) => x)) - 60, Math.max(...places.map(({ x }) => x)) + 60];
  const [top, bottom] = [Math.min(...places.map(({ y }) => y)) - 50, Math.max(...places.map(({ y }) => y)) + 50];
  const clientWidth = byId('graph').clientWidth;
  const clientHeight = byId('graph').clientHeight - TOOLS_HEIGHT;
  const zoom = Math.min(clientWidth / (right - left), clientHeight / (bottom - top), 1.6);
  return { zoom, pan: { x: (clientWidth - zoom * (left + right)) / 2, y: (clientHeight - zoom * (top + bottom)) / 2 } };
}

// Show the strongest path, where there is one, or everything.
function fit() {
  const path = current.marks && current.marks.path;
  graph.viewport(viewOf(path ? path.nodes.map((number) => nodes[number]) : nodes));
}

function turn() {
  isUpright = !isUpright;
  graph.batch(() => graph.nodes().forEach((node) => {
    const place = node.data('number') === undefined ? node.data() : nodes[node.data('number')];
    node.position(position(place.along, place.across));
  }));
  graph.viewport(viewOf(nodes));
}

// Letters are never smaller on the screen than can be read, however far the view is zoomed out.
let letters = 0;
function keepReadable() {
  const wanted = Math.round(Math.min(64, Math.max(22, LEAST_LETTERS / graph.zoom())));
  if (wanted === letters) return;
  letters = wanted;
  graph.style().fromJson(graphStyle()).update();
}

function zoomBy(factor) {
  graph.zoom({ level: graph.zoom() * factor, renderedPosition: { x: graph.width() / 2, y: graph.height() / 2 } });
}

const nodeElement = (number) => graph.getElementById(`n${number}`);
const edgeElement = (edge) => graph.getElementById(`e${edge.index}`);

// Line widths and opacities by size among what is shown; the more edges, the fainter the weak ones.
function dressing(shown) {
  const sizes = shown.map(widthOf);
  const largest = sizes.reduce((most, size) => Math.max(most, size), 0);
  const isLevel = sizes.every((size) => size === sizes[0]);
  const faintest = Math.min(0.85, Math.max(0.09, 7 / Math.sqrt(shown.length)));
  return new Map(shown.map((edge, index) => {
    const share = isLevel || largest === 0 ? 0.35 : sizes[index] / largest;
    const opacity = faintest + (0.95 - faintest) * share ** 1.5;
    return [edge, { width: 0.8 + 4 * share, opacity }];
  }));
}

// Show some edges and hide the others; nodes without any stay as faint places.
function showEdges(shown, touched) {
  const looks = dressing(shown);
  const isPatterned = shown.length <= MAX_PATTERNED;
  graph.batch(() => {
    edges.forEach((edge) => {
      const drawn = edgeElement(edge);
      setClass(drawn, 'hidden', !looks.has(edge));
      setClass(drawn, 'patterned', isPatterned);
      setClass(drawn, 'by-kind', state.colourBy === 'kind');
      setClass(drawn, 'by-circuit', state.colourBy === 'circuit');
      const look = looks.get(edge);
      if (look && (look.opacity !== drawn.data('opacity') || look.width !== drawn.data('width'))) drawn.data(look);
    });
    nodes.forEach((_, index) => setClass(nodeElement(index), 'ghost', !touched.has(index)));
    graph.edges('.structural').forEach((drawn) => {
      setClass(drawn, 'hidden', drawn.source().hasClass('ghost') || drawn.target().hasClass('ghost'));
    });
  });
}

// Change a class only where it changes: styles are costly.
function setClass(drawn, name, isThere) {
  if (drawn.hasClass(name) !== isThere) drawn.toggleClass(name, isThere);
}

const MARKS = ['selected', 'aside', 'on-path', 'direct'];

// Mark a selection: what is on its paths stays, the other edges go and the other nodes step back.
function markSelection(marks, shown) {
  graph.batch(() => {
    graph.elements(MARKS.map((name) => `.${name}`).join(', ')).removeClass(MARKS);
    if (marks === null) return;
    const kept = new Set(marks.edges);
    shown.forEach((edge) => {
      const drawn = edgeElement(edge);
      setClass(drawn, 'hidden', !kept.has(edge));
      if (!kept.has(edge)) return;
      setClass(drawn, 'direct', marks.direct.has(edge));
      if (marks.direct.has(edge)) setClass(drawn, 'patterned', true);
    });
    nodes.forEach((_, index) => setClass(nodeElement(index), 'aside', !marks.nodes.has(index)));
    graph.edges('.structural').forEach((drawn) => {
      setClass(drawn, 'hidden', [drawn.source(), drawn.target()].some((end) => !marks.nodes.has(end.data('number'))));
    });
    nodeElement(marks.node).addClass('selected');
    if (marks.path) {
      // Through a shared key and value the path goes on from its diamond to the head.
      marks.path.nodes.forEach((number, place) => {
        graph.getElementById(`s${number}-${marks.path.nodes[place + 1]}`).addClass('on-path');
      });
      marks.path.edges.forEach((edge) => edgeElement(edge).addClass('on-path patterned'));
      marks.path.nodes.forEach((number) => nodeElement(number).addClass('on-path'));
    }
  });
}

// Move the view, if need be, so that a node is well inside it.
function bringIntoView(number) {
  const place = nodeElement(number).renderedPosition();
  const margin = 40;
  const isInside = place.x > margin && place.y > margin && place.x < graph.width() - margin && place.y < graph.height() - margin;
  if (!isInside) graph.center(nodeElement(number));
}

function applyTheme() {
  document.documentElement.dataset.theme = currentTheme();
  if (graph) graph.style().fromJson(graphStyle()).update();
}
