// Legend, facts and filters: what is told of the circuits, and the controls that change what is shown.

function fillFacts() {
  byId('title').textContent = contents.title;
  byId('facts').append(circuits.length > 1 ? comparedFacts() : ownFacts(circuits[0]));
  const cut = circuits.filter((circuit) => circuit.n_in_page < circuit.n_edges);
  if (!cut.length) return;
  byId('left-out').hidden = false;
  byId('left-out').textContent = `Not all edges are in this page: ${cut.map((circuit) => (
    `${count(circuit.n_in_page)} of ${count(circuit.n_edges)}${circuits.length > 1 ? ` of ${circuit.name}` : ''}`
  )).join('; ')}, the strongest with their ways to the input and the logits. Paths run over these alone.`;
}

function ownFacts(circuit) {
  return element('dl', { children: circuit.facts.flatMap(([label, text]) => [element('dt', { text: label }), element('dd', { text })]) });
}

// Both circuits' facts beside one another; what they agree on is told once.
function comparedFacts() {
  const [one, other] = circuits.map((circuit) => new Map(circuit.facts));
  const labels = [...new Set([...one.keys(), ...other.keys()])];
  const cell = (text, span = 1) => element('td', { text: text ?? '–', attributes: { colspan: span } });
  const rows = labels.map((label) => element('tr', {
    children: [
      element('th', { text: label, attributes: { scope: 'row' } }),
      ...(one.get(label) === other.get(label) ? [cell(one.get(label), 2)] : [cell(one.get(label)), cell(other.get(label))]),
    ],
  }));
  const names = circuits.map((circuit, index) => element('th', { text: `${'AB'[index]}: ${circuit.name}`, attributes: { scope: 'col' } }));
  const head = element('thead', { children: [element('tr', { children: [element('td'), ...names] })] });
  return element('table', { children: [head, element('tbody', { children: rows })] });
}

function fillSets() {
  if (circuits.length < 2) return;
  byId('sets').hidden = false;
  byId('colour-by-label').hidden = false;
  for (const [name, { holds, label }] of Object.entries(SETS)) {
    const attributes = { type: 'radio', name: 'set', value: name };
    const input = element('input', { attributes });
    input.checked = name === state.set;
    const children = [input, element('span', { text: `${label} (${count(edges.filter(holds).length)})` })];
    byId('sets').append(element('label', { children }));
  }
}

function lineClass(line) {
  return line === 'solid' ? '' : ` ${line}`;
}

function checks(box, names, text, chosen, onChange, swatch) {
  for (const name of names) {
    const input = element('input', { attributes: { type: 'checkbox', value: name } });
    input.checked = true;
    input.addEventListener('change', () => {
      if (input.checked) chosen().add(name);
      else chosen().delete(name);
      onChange();
    });
    const mark = swatch ? [element('span', { className: `swatch ${name}${lineClass(LINES[name])}` })] : [];
    const counter = element('span', { className: 'count', attributes: { 'data-count': name } });
    byId(box).append(element('label', { children: [input, ...mark, element('span', { text: text[name] }), counter] }));
  }
}

function layerChoices(id, from, to, field) {
  for (let layer = from; layer <= to; layer += 1) {
    byId(id).append(element('option', { text: layerText(layer), attributes: { value: layer } }));
  }
  byId(id).addEventListener('change', () => {
    state[field] = Number(byId(id).value);
    refresh();
  });
}

function fillFilters() {
  checks('kinds', contents.kinds, KIND_TEXT, () => state.kinds, refresh, true);
  checks('writers', contents.writer_kinds, WRITER_TEXT, () => state.writers, refresh, false);
  layerChoices('writer-from', -1, universe.n_layers - 1, 'writerFrom');
  layerChoices('writer-to', -1, universe.n_layers - 1, 'writerTo');
  layerChoices('reader-from', 0, universe.n_layers, 'readerFrom');
  layerChoices('reader-to', 0, universe.n_layers, 'readerTo');
  byId('sign').addEventListener('change', () => { state.sign = byId('sign').value; refresh(); });
  byId('min-score').addEventListener('input', () => {
    state.minScore = Math.max(0, Number(byId('min-score').value) || 0);
    refresh();
  });
  byId('strongest').addEventListener('input', () => {
    const sizes = chosenSizes();
    const place = Math.min(sizes.length - 1, Math.round((byId('strongest').value / 1000) * sizes.length));
    state.minScore = place > 0 ? sizes[place] : 0;
    refreshSoon();
  });
  byId('colour-by').addEventListener('change', () => { state.colourBy = byId('colour-by').value; refresh(); });
  byId('sets').addEventListener('change', (event) => {
    // Scores of another choice are on another scale: an opening that was not touched stays one.
    const isOpening = state.minScore === openingSize();
    state.set = event.target.value;
    if (isOpening) state.minScore = openingSize();
    state.colourBy = state.set === 'union' ? 'circuit' : 'kind';
    refresh();
  });
  byId('width-by-label').hidden = !hasEffects;
  byId('width-by').addEventListener('change', () => { state.widthBy = byId('width-by').value; refresh(); });
  byId('show-all').addEventListener('click', () => { state.minScore = 0; refresh(); });
  byId('show-strongest').addEventListener('click', () => { state.minScore = openingSize(); refresh(); });
  byId('reset').addEventListener('click', () => { resetFilters(); refresh(); });
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
}

// Bring the controls in line with the state, and the numbers beside them.
function showFilters() {
  const kinds = countBy('kind', (edge) => edge.kind);
  const writers = countBy('writer', (edge) => nodes[edge.source].kind);
  for (const [box, counts, chosen] of [['kinds', kinds, state.kinds], ['writers', writers, state.writers]]) {
    byId(box).querySelectorAll('input').forEach((input) => { input.checked = chosen.has(input.value); });
    byId(box).querySelectorAll('.count').forEach((shown) => { shown.textContent = count(counts[shown.dataset.count] || 0); });
  }
  byId('writer-from').value = state.writerFrom;
  byId('writer-to').value = state.writerTo;
  byId('reader-from').value = state.readerFrom;
  byId('reader-to').value = state.readerTo;
  byId('sign').value = state.sign;
  byId('colour-by').value = state.colourBy;
  // Rounded for reading; the filter itself is exact.
  if (document.activeElement !== byId('min-score')) byId('min-score').value = Number(state.minScore.toPrecision(5));
  const sizes = chosenSizes();
  const hidden = sizes.filter((size) => size < state.minScore).length;
  if (document.activeElement !== byId('strongest')) {
    byId('strongest').value = sizes.length ? Math.round((1000 * hidden) / sizes.length) : 0;
  }
  byId('show-strongest').textContent = `Strongest ${count(contents.opening)}`;
  byId('show-strongest').hidden = byId('show-all').hidden = sizes.length <= contents.opening;
  byId('size-name').textContent = sizeName();
  byId('strongest-share').textContent = `${count(hidden)} of ${count(sizes.length)}`;
}

function legendItem(mark, text) {
  return element('li', { children: [element('span', { className: mark }), element('span', { text })] });
}

// What the strength of an edge is called: the score itself where the largest is the strongest.
const sizeName = () => (circuits.every((circuit) => circuit.score_meaning === 'log-alpha') ? 'score' : '|score|');

function widthText() {
  return state.widthBy === 'effect'
    ? 'the wider, the more KL rises when that edge alone is cut; thinnest where it was not measured'
    : `the wider and stronger, the larger ${sizeName()} among the edges shown`;
}

const memberText = (name) => (name === 'shared' ? 'both' : `only ${circuits[name === 'only-a' ? 0 : 1].name}`);

function showLegend() {
  byId('width-note').textContent = `Lines: ${widthText()}. Patterns appear below 1,000 edges and on selected paths.`;
  const lines = state.colourBy === 'kind'
    ? contents.kinds.map((kind) => legendItem(`swatch ${kind}${lineClass(LINES[kind])}`, KIND_TEXT[kind]))
    : Object.entries(MEMBER_LINES).map(([name, line]) => legendItem(`swatch ${name}${lineClass(line)}`, memberText(name)));
  const shapes = [['end', 'input, logits'], ['head', 'head'], ['mlp-node', 'MLP']];
  if (nodes.some((node) => node.kind === 'group')) shapes.push(['group', 'key and value of several heads']);
  const items = [...lines, legendItem('swatch best', 'strongest path'), ...shapes.map(([name, text]) => legendItem(`node ${name}`, text))];
  byId('legend').replaceChildren(...items);
}

function showCounts(shown) {
  const total = chosenEdges().length;
  const writers = new Set(shown.map((edge) => nodes[edge.source]));
  const ofKind = (kind) => [...writers].filter((node) => node.kind === kind).length;
  const set = circuits.length > 1 ? ` in ${SETS[state.set].label}` : '';
  const isStrongest = shown.length < total && state.minScore > 0 ? ', the strongest' : '';
  byId('counts').textContent = `${count(shown.length)} of ${plural(total, 'edge')}${set} shown${isStrongest}; ${plural(ofKind('head'), 'head')}, ${plural(ofKind('mlp'), 'MLP')}`;
  byId('empty').hidden = shown.length > 0;
  byId('empty').textContent = total ? 'No edge passes the filters.' : circuits.length > 1 ? `There is no edge in ${SETS[state.set].label}.` : 'This circuit has no edges.';
}
