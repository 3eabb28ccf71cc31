// What is shown: the choice of circuits, and the filters on it.

const state = {
  set: 'a',
  minScore: 0,
  sign: 'any',
  kinds: new Set(contents.kinds),
  writers: new Set(contents.writer_kinds),
  writerFrom: -1,
  writerTo: universe.n_layers - 1,
  readerFrom: 0,
  readerTo: universe.n_layers,
  colourBy: 'kind',
  widthBy: 'score',
  selected: null,
  cursor: null,
};

const scoreOf = (edge) => SETS[state.set].score(edge);
// How strong an edge is: the circuits' strengths, by the one rule of Circuit.strengths.
const sizeOf = (edge) => SETS[state.set].strength(edge);
// What lines are as wide as: the strength, or what cutting the edge alone costs.
const widthOf = (edge) => (state.widthBy === 'effect' ? Math.max(0, effectOf(edge) ?? 0) : sizeOf(edge));

// The edges of the chosen circuits, before any filter.
function chosenEdges() {
  return edges.filter(SETS[state.set].holds);
}

const TESTS = {
  kind: (edge) => state.kinds.has(edge.kind),
  writer: (edge) => state.writers.has(nodes[edge.source].kind),
  score: (edge) => sizeOf(edge) >= state.minScore,
  sign: (edge) => state.sign === 'any' || (state.sign === 'positive' ? scoreOf(edge) > 0 : scoreOf(edge) < 0),
  layers: (edge) => {
    const from = nodes[edge.source].layer;
    const to = nodes[edge.target].layer;
    return from >= state.writerFrom && from <= state.writerTo && to >= state.readerFrom && to <= state.readerTo;
  },
};

function shownEdges() {
  const tests = Object.values(TESTS);
  return chosenEdges().filter((edge) => tests.every((test) => test(edge)));
}

// How many edges of each group all other filters leave, for the numbers beside the boxes.
function countBy(except, groupOf) {
  const tests = Object.entries(TESTS).filter(([name]) => name !== except).map(([, test]) => test);
  const counts = {};
  for (const edge of chosenEdges()) {
    if (tests.every((test) => test(edge))) counts[groupOf(edge)] = (counts[groupOf(edge)] || 0) + 1;
  }
  return counts;
}

// Sizes of the chosen edges, rising: what the slider runs over.
function chosenSizes() {
  return chosenEdges().map(sizeOf).sort((one, other) => one - other);
}

// The size that leaves the strongest edges, so many as can be looked at together.
function openingSize() {
  const sizes = chosenSizes();
  return sizes.length > contents.opening ? sizes[sizes.length - contents.opening] : 0;
}

function resetFilters() {
  Object.assign(state, {
    minScore: openingSize(), sign: 'any', kinds: new Set(contents.kinds), writers: new Set(contents.writer_kinds),
    writerFrom: -1, writerTo: universe.n_layers - 1, readerFrom: 0, readerTo: universe.n_layers,
  });
}

// Nodes with a shown edge, by number: in the order of the computation, and with what touches them. Groups count
// where an edge ends at them; a head also where its group is read.
function touchedNodes(shown) {
  const degree = new Map();
  const writing = new Set(shown.map((edge) => edge.source));
  const touch = (node, side) => {
    if (!degree.has(node)) degree.set(node, { in: 0, out: 0 });
    degree.get(node)[side] += 1;
  };
  for (const edge of shown) {
    touch(edge.source, 'out');
    touch(edge.target, 'in');
    // What goes into a shared key or value goes into each of its heads that is shown, as the panel counts it.
    for (const head of nodes[edge.target].heads || []) if (writing.has(head)) touch(head, 'in');
  }
  return new Map([...degree.entries()].sort((one, other) => one[0] - other[0]));
}
