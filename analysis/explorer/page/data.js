// The circuits as the page was given them: nodes, edges, and which edges each choice of circuits holds.

const contents = JSON.parse(document.getElementById('contents').textContent);
const nodes = contents.nodes;
const circuits = contents.circuits;
const universe = contents.universe;
const numberOf = new Map(nodes.map((node, index) => [node.id, index]));

const KIND_TEXT = { q: 'query', k: 'key', v: 'value', qkv: 'query, key, value', mlp: 'MLP', logits: 'logits' };
const WRITER_TEXT = { embedding: 'embeddings', vector: 'vectors', head: 'heads', mlp: 'MLPs' };
const NODE_TEXT = { embedding: 'embedding', vector: 'added vector', head: 'attention head', mlp: 'MLP', logits: 'logits', group: 'shared key and value' };
const PORTED = new Set(['q', 'k', 'v', 'qkv']);

// Edges as objects: ends by number, kind, the reader's name, and one score a circuit or null.
const edges = contents.edges.source.map((source, index) => {
  const target = contents.edges.target[index];
  const kind = contents.edges.kind[index];
  return {
    index, source, target, kind,
    writer: nodes[source].id,
    reader: PORTED.has(kind) ? `${nodes[target].id}<${kind}>` : nodes[target].id,
    scores: contents.edges.scores.map((column) => column[index]),
    effects: contents.edges.effects ? contents.edges.effects.map((column) => column[index]) : null,
  };
});

// Which circuits an edge has to be in, and the score that it shows there.
const first = (edge) => edge.scores[0];
const second = (edge) => edge.scores[1];
const inFirst = (edge) => first(edge) !== null;
const inSecond = (edge) => circuits.length > 1 && second(edge) !== null;
const meanOf = (values) => {
  const known = values.filter((value) => value !== null);
  return known.reduce((sum, value) => sum + value, 0) / known.length;
};
const mean = (edge) => meanOf(edge.scores);
// A trained gate is the stronger the larger its score; of any other score the size counts (Circuit.strengths).
const softplus = (score) => Math.max(score, 0) + Math.log1p(Math.exp(-Math.abs(score)));
const strengthIn = (index) => (edge) => {
  if (edge.scores[index] === null) return null;
  return circuits[index].score_meaning === 'log-alpha' ? softplus(edge.scores[index]) : Math.abs(edge.scores[index]);
};
const firstStrength = strengthIn(0);
const secondStrength = strengthIn(1);
const meanStrength = (edge) => meanOf(circuits.map((_, index) => strengthIn(index)(edge)));
// What cutting the edge alone from its circuit costs in KL, null where it was not measured.
const effectOf = (edge) => (edge.effects ? edge.effects.find((effect) => effect !== null) ?? null : null);
const hasEffects = Boolean(contents.edges.effects);
const SETS = {
  a: { holds: inFirst, score: first, strength: firstStrength, label: 'A' },
  b: { holds: inSecond, score: second, strength: secondStrength, label: 'B' },
  shared: { holds: (edge) => inFirst(edge) && inSecond(edge), score: mean, strength: meanStrength, label: 'A and B' },
  'only-a': { holds: (edge) => inFirst(edge) && !inSecond(edge), score: first, strength: firstStrength, label: 'only A' },
  'only-b': { holds: (edge) => !inFirst(edge) && inSecond(edge), score: second, strength: secondStrength, label: 'only B' },
  union: { holds: (edge) => inFirst(edge) || inSecond(edge), score: mean, strength: meanStrength, label: 'A or B' },
};

// Where an edge is: shared, only-a or only-b.
function membership(edge) {
  if (circuits.length === 1) return 'only-a';
  return inFirst(edge) ? (inSecond(edge) ? 'shared' : 'only-a') : 'only-b';
}

const count = (number) => number.toLocaleString('en');
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;

// Four figures, and the plain zero and whole numbers.
function figure(score) {
  if (score === null) return '–';
  const size = Math.abs(score);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? score.toExponential(2) : String(Number(score.toPrecision(4)));
  return text.replace('-', '−');
}

function layerText(layer) {
  return layer < 0 ? 'embeddings' : layer === universe.n_layers ? 'logits' : String(layer);
}

function nodeText(node) {
  const kind = NODE_TEXT[node.kind];
  return node.layer < 0 || node.kind === 'logits' ? kind : `${kind} in layer ${node.layer}`;
}

// An element with text and children; text from circuits only ever gets into the page through here.
function element(tag, { text, className, attributes = {}, children = [] } = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);
