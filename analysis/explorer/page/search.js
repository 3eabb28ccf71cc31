// Search for nodes by name: a5.h3, m7, a5.*, h3 (that head of every layer), several with commas between.

const found = { numbers: [], place: -1 };

// A name or a part of it with * and ? as a pattern that node names either fit or not.
function patternOf(text) {
  const escaped = text.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.');
  return new RegExp(`^${escaped}$`, 'i');
}

// Whether a node fits: as a whole, by its layer's part (a5) or by its part in the layer (h3). A port is ignored.
function fits(node, pattern) {
  return pattern.test(node.id) || (node.id.includes('.') && node.id.split('.').some((part) => pattern.test(part)));
}

function findNodes(query, touched) {
  const words = query.split(/[\s,]+/).map((word) => word.replace(/<.*$/, '')).filter((word) => word !== '');
  const patterns = words.map(patternOf);
  return [...touched.keys()].filter((number) => patterns.some((pattern) => fits(nodes[number], pattern)));
}

function showMatches(touched) {
  const query = byId('query').value.trim();
  found.numbers = query ? findNodes(query, touched) : [];
  found.place = -1;
  graph.batch(() => {
    graph.nodes('.match').removeClass('match');
    found.numbers.forEach((number) => nodeElement(number).addClass('match'));
  });
  byId('matches').textContent = !query ? '' : found.numbers.length
    ? `${plural(found.numbers.length, 'node')}: Enter selects${found.numbers.length > 1 ? ' one after another' : ''}`
    : 'no shown node fits';
}

function selectNextMatch() {
  if (!found.numbers.length) return;
  found.place = (found.place + 1) % found.numbers.length;
  const number = found.numbers[found.place];
  select(number);
  bringIntoView(number);
  byId('matches').textContent = `${nodes[number].id}: ${found.place + 1} of ${found.numbers.length}`;
}

function listenToSearch() {
  byId('query').addEventListener('input', () => showMatches(touchedNodes(shownEdges())));
  byId('search').addEventListener('submit', (event) => {
    event.preventDefault();
    selectNextMatch();
  });
}
