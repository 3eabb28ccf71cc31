// How the graph looks: styles by kind, in the colours of the theme.

const LINES = { q: 'solid', k: 'dashed', v: 'dotted', qkv: 'solid', mlp: 'solid', logits: 'solid' };
const ARROWS = { q: 'triangle', k: 'diamond', v: 'circle', qkv: 'triangle', mlp: 'vee', logits: 'vee' };
const MEMBER_LINES = { shared: 'solid', 'only-a': 'dashed', 'only-b': 'dotted' };
const MAX_PATTERNED = 1000;
const darkQuery = window.matchMedia('(prefers-color-scheme: dark)');

// The theme that is chosen, or that the system asks for.
function currentTheme() {
  const chosen = byId('theme').value;
  return chosen === 'auto' ? (darkQuery.matches ? 'dark' : 'light') : chosen;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function nodeStyle(kind, shape, fill, line, width, height) {
  return {
    selector: `node[kind = "${kind}"]`,
    style: {
      shape, width, height, 'background-color': colour(fill), 'border-color': colour(line), 'border-width': 1.5,
    },
  };
}

function graphStyle() {
  const label = colour('label');
  const halo = { 'text-outline-color': colour('graph'), 'text-outline-width': 3 };
  return [
    {
      selector: 'node',
      style: {
        label: 'data(label)', color: label, 'font-size': letters || 22, 'font-family': 'Helvetica, Arial, sans-serif',
        'text-valign': 'center', 'text-halign': 'center', 'min-zoomed-font-size': 5,
        'overlay-opacity': 0, 'z-index': 10,
      },
    },
    nodeStyle('head', 'ellipse', 'head-fill', 'head-line', 62, 40),
    nodeStyle('mlp', 'round-rectangle', 'mlp-fill', 'mlp-line', 66, 40),
    nodeStyle('vector', 'round-rectangle', 'end-fill', 'end-line', 66, 40),
    nodeStyle('embedding', 'round-rectangle', 'end-fill', 'end-line', 92, 54),
    nodeStyle('logits', 'round-rectangle', 'end-fill', 'end-line', 92, 54),
    nodeStyle('group', 'diamond', 'group-fill', 'group-line', 20, 20),
    {
      selector: 'node[kind = "axis"]',
      style: { 'background-opacity': 0, width: 40, height: 24, color: colour('axis'), 'font-size': Math.max(26, letters), events: 'no' },
    },
    { selector: 'node.ghost', style: { opacity: 0.28, events: 'no', 'z-index': 1 } },
    { selector: 'node.aside', style: { opacity: 0.25 } },
    {
      selector: 'node.on-path, node.selected, node.match, node.cursor, node.hovered',
      style: { label: 'data(full)', 'font-size': Math.max(24, letters), 'font-weight': 'bold', 'z-index': 30, ...halo },
    },
    { selector: 'node[kind = "group"]', style: { label: '' } },
    { selector: 'node[kind = "group"].selected, node[kind = "group"].cursor', style: { label: 'data(full)' } },
    { selector: 'node.on-path', style: { 'border-color': colour('path'), 'border-width': 4 } },
    { selector: 'node.match', style: { 'outline-color': colour('match'), 'outline-width': 5, 'outline-offset': 2 } },
    {
      selector: 'node.selected',
      style: { 'border-color': colour('path'), 'border-width': 5, 'font-size': Math.max(28, letters), 'z-index': 40 },
    },
    { selector: 'node.cursor', style: { 'outline-color': colour('accent'), 'outline-width': 6, 'outline-offset': 4 } },
    {
      selector: 'edge',
      style: {
        'curve-style': 'unbundled-bezier', 'edge-distances': 'node-position',
        'control-point-distances': 'data(distances)', 'control-point-weights': 'data(weights)',
        width: 'data(width)', opacity: 'data(opacity)', 'overlay-opacity': 0, 'target-arrow-shape': 'none',
        'arrow-scale': 1.3,
      },
    },
    ...contents.kinds.map((kind) => ({
      selector: `edge.by-kind[kind = "${kind}"]`,
      style: { 'line-color': colour(kind), 'target-arrow-color': colour(kind) },
    })),
    ...Object.keys(MEMBER_LINES).map((member) => ({
      selector: `edge.by-circuit[member = "${member}"]`,
      style: { 'line-color': colour(member), 'target-arrow-color': colour(member) },
    })),
    ...contents.kinds.map((kind) => ({
      selector: `edge.by-kind.patterned[kind = "${kind}"]`, style: { 'line-style': LINES[kind] },
    })),
    ...Object.entries(MEMBER_LINES).map(([member, line]) => ({
      selector: `edge.by-circuit.patterned[member = "${member}"]`, style: { 'line-style': line },
    })),
    { selector: 'edge[kind = "structural"]', style: { 'line-color': colour('group-line') } },
    { selector: 'edge.straight', style: { 'curve-style': 'straight' } },
    { selector: 'edge.hidden', style: { display: 'none' } },
    { selector: 'edge.structural.on-path', style: { display: 'element', width: 3, 'line-color': colour('path') } },
    ...contents.kinds.map((kind) => ({
      selector: `edge.direct[kind = "${kind}"]`,
      style: { 'target-arrow-shape': ARROWS[kind], opacity: 0.95, 'z-index': 5 },
    })),
    {
      selector: 'edge.on-path',
      style: {
        'underlay-color': colour('path'), 'underlay-opacity': 0.45, 'underlay-padding': 6, opacity: 1,
        'target-arrow-shape': 'triangle', 'z-index': 20,
      },
    },
    { selector: 'edge.hovered', style: { opacity: 1, 'underlay-color': colour('accent'), 'underlay-opacity': 0.35, 'underlay-padding': 5, 'z-index': 25 } },
  ];
}
