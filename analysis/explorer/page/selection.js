// The selected node: its paths in and out, the strongest path through it, its strongest edges.

const LISTED = 8;
const pathView = { extent: 'paths', side: 'both' };

// What a selection marks: edges and nodes on the node's paths, the edges that touch it, the strongest path.
function marksOf(node, shown) {
  const steps = stepsOf(shown);
  const up = reach(node, steps.before);
  const down = reach(node, steps.after);
  const path = strongestPath(node, shown, sizeOf);
  const into = directEdges(node, shown, 'target');
  const out = directEdges(node, shown, 'source');
  const wantsUp = pathView.side !== 'out';
  const wantsDown = pathView.side !== 'in';
  const chosen = new Set();
  if (pathView.extent === 'paths') {
    if (wantsUp) up.edges.forEach((edge) => chosen.add(edge));
    if (wantsDown) down.edges.forEach((edge) => chosen.add(edge));
  } else if (pathView.extent === 'direct') {
    if (wantsUp) into.forEach((edge) => chosen.add(edge));
    if (wantsDown) out.forEach((edge) => chosen.add(edge));
  }
  const marksPath = path !== null && pathView.extent !== 'direct' && pathView.side === 'both';
  if (marksPath) path.edges.forEach((edge) => chosen.add(edge));
  const kept = new Set([node, ...[...chosen].flatMap((edge) => [edge.source, edge.target])]);
  if (marksPath) path.nodes.forEach((number) => kept.add(number));
  if (pathView.extent === 'paths') {
    if (wantsUp) up.nodes.forEach((number) => kept.add(number));
    if (wantsDown) down.nodes.forEach((number) => kept.add(number));
  }
  return {
    node, edges: [...chosen], nodes: kept, direct: new Set([...into, ...out]), path: marksPath ? path : null,
    strongest: path, up, down, into, out,
  };
}

// Edges that end at a node, those into the key and value it shares among them, or that it writes.
function directEdges(node, shown, side) {
  const own = shown.filter((edge) => edge[side] === node);
  if (side === 'source') return own;
  const groups = new Set(nodes.flatMap((other, index) => ((other.heads || []).includes(node) ? [index] : [])));
  return [...own, ...shown.filter((edge) => groups.has(edge.target))];
}

// How many of a head's edges in go into the key and value that it shares; empty where none does.
function sharedInto(number) {
  const groups = new Set(nodes.flatMap((other, index) => ((other.heads || []).includes(number) ? [index] : [])));
  const shared = current.shown.filter((edge) => groups.has(edge.target)).length;
  return shared ? `${count(shared)} of those in go into the key and value it shares` : '';
}

const modulesIn = (numbers) => [...numbers].filter((number) => nodes[number].kind !== 'group').length;

function nodeButton(number) {
  const button = element('button', { className: 'link', text: nodes[number].id, attributes: { type: 'button' } });
  button.addEventListener('click', () => select(number));
  return button;
}

function edgeItem(edge, other) {
  const score = element('span', { className: 'score', text: figure(scoreOf(edge)) });
  const swatch = element('span', { className: `swatch ${edge.kind}${lineClass(LINES[edge.kind])}`, attributes: { title: KIND_TEXT[edge.kind] } });
  const kind = element('span', { className: 'small', text: KIND_TEXT[edge.kind] });
  return element('li', { children: [swatch, nodeButton(other), kind, score] });
}

function edgeList(title, listed, otherOf, note = '') {
  const strongest = [...listed].sort((one, other) => sizeOf(other) - sizeOf(one)).slice(0, LISTED);
  const more = listed.length > LISTED ? `, the strongest ${LISTED}` : '';
  const heading = element('h3', { text: `${title}: ${plural(listed.length, 'edge')}${more}` });
  const told = note ? [element('p', { className: 'small', text: note })] : [];
  return [heading, ...told, element('ol', { children: strongest.map((edge) => edgeItem(edge, otherOf(edge))) })];
}

function pathPart(path) {
  const heading = element('h3', { text: 'Strongest path through it' });
  if (path === null) return [heading, element('p', { className: 'small', text: 'No path of the shown edges leads through it from the embeddings to the logits.' })];
  const told = path.nodes.filter((number) => nodes[number].kind !== 'group');
  const steps = told.flatMap((number, place) => (place ? [element('span', { text: '→' }), nodeButton(number)] : [nodeButton(number)]));
  const weakest = element('p', { className: 'small', text: `${plural(path.edges.length, 'edge')}; weakest ${sizeName()} ${figure(path.weakest)}` });
  return [heading, element('div', { className: 'path', attributes: { id: 'path' }, children: steps }), weakest];
}

function viewChoices() {
  const make = (field, label, choices) => {
    const picker = element('select', {
      attributes: { 'aria-label': label, 'data-view': field },
      children: choices.map(([value, text]) => element('option', { text, attributes: { value } })),
    });
    picker.value = pathView[field];
    picker.addEventListener('change', () => {
      pathView[field] = picker.value;
      refresh();
      byId('selection').querySelector(`[data-view="${field}"]`).focus();
    });
    return picker;
  };
  const extent = make('extent', 'What to show', [['paths', 'all paths'], ['direct', 'direct edges'], ['strongest', 'strongest path']]);
  const side = make('side', 'Direction', [['both', 'in and out'], ['in', 'in'], ['out', 'out']]);
  return element('form', { className: 'row', children: [extent, side] });
}

function showSelection(marks) {
  const panel = byId('selection');
  panel.hidden = marks === null;
  if (marks === null) {
    panel.replaceChildren();
    return;
  }
  const node = nodes[marks.node];
  const close = element('button', { text: '×', attributes: { type: 'button', 'aria-label': 'Clear selection', title: 'Clear (Esc)' } });
  close.addEventListener('click', () => { select(null); byId('graph').focus(); });
  const heading = element('div', { children: [element('h2', { text: node.id }), element('p', { className: 'small', text: nodeText(node) })] });
  const reached = (side, word) => element('p', {
    className: 'small', attributes: { id: word },
    text: `${word}: ${plural(modulesIn(side.nodes), 'node')}, ${plural(side.edges.size, 'edge')}`,
  });
  panel.replaceChildren(
    element('header', { children: [heading, close] }), ...headPart(node),
    reached(marks.up, 'upstream'), reached(marks.down, 'downstream'), viewChoices(), ...pathPart(marks.strongest),
    ...edgeList('In', marks.into, (edge) => edge.source, sharedInto(marks.node)), ...edgeList('Out', marks.out, (edge) => edge.target),
  );
}

function selectionText(marks) {
  const node = nodes[marks.node];
  const path = marks.strongest
    ? `Strongest path: ${marks.strongest.nodes.map((number) => nodes[number].id).join(', ')}; weakest score ${figure(marks.strongest.weakest)}.`
    : 'No path from the embeddings to the logits.';
  return `Selected ${node.id}, ${nodeText(node)}. ${plural(marks.into.length, 'edge')} in, ${plural(marks.out.length, 'edge')} out; `
    + `${plural(modulesIn(marks.up.nodes), 'node')} upstream, ${plural(modulesIn(marks.down.nodes), 'node')} downstream. ${path}${rolesText(node)}`;
}
