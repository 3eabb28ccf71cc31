// Everything by keyboard: arrows move a cursor among the nodes of the graph, Enter selects, Escape clears.

const ARROW_KEYS = {
  ArrowLeft: { x: -1, y: 0 }, ArrowRight: { x: 1, y: 0 }, ArrowUp: { x: 0, y: -1 }, ArrowDown: { x: 0, y: 1 },
};

// The nearest node in a direction; what lies off the line counts as further.
function neighbour(number, direction, touched) {
  const from = nodeElement(number).position();
  let best = null;
  for (const other of touched.keys()) {
    const to = nodeElement(other).position();
    const ahead = (to.x - from.x) * direction.x + (to.y - from.y) * direction.y;
    const aside = Math.abs((to.x - from.x) * direction.y + (to.y - from.y) * direction.x);
    const cost = ahead + 3 * aside;
    if (ahead > 1 && (best === null || cost < best.cost)) best = { number: other, cost };
  }
  return best === null ? number : best.number;
}

function moveCursor(number) {
  state.cursor = number;
  graph.nodes('.cursor').removeClass('cursor');
  if (number === null) return;
  nodeElement(number).addClass('cursor');
  bringIntoView(number);
  const degree = current.touched.get(number) || { in: 0, out: 0 };
  announce(`${nodes[number].id}, ${nodeText(nodes[number])}, ${degree.in} in, ${degree.out} out`);
}

function onGraphKey(event) {
  const known = [...current.touched.keys()];
  if (!known.length || event.ctrlKey || event.altKey || event.metaKey) return false;
  const direction = ARROW_KEYS[event.key];
  if (direction && event.shiftKey) graph.panBy({ x: -60 * direction.x, y: -60 * direction.y });
  else if (direction) {
    const start = [state.cursor, state.selected].find((number) => number !== null && current.touched.has(number));
    moveCursor(start === undefined ? known[0] : neighbour(start, direction, current.touched));
  } else if (event.key === 'Home') moveCursor(known[0]);
  else if (event.key === 'End') moveCursor(known[known.length - 1]);
  else if (event.key === 'Enter' || event.key === ' ') select(state.cursor);
  else if (event.key === '+' || event.key === '=') zoomBy(1.25);
  else if (event.key === '-') zoomBy(0.8);
  else if (event.key === '0') fit();
  else return false;
  return true;
}

function clearAll() {
  byId('query').value = '';
  showMatches(current.touched);
  moveCursor(null);
  select(null);
}

function onPageKey(event) {
  const isTyping = ['INPUT', 'SELECT', 'TEXTAREA'].includes(event.target.tagName);
  if (event.key === 'Escape') clearAll();
  else if (event.key === '/' && !isTyping) {
    event.preventDefault();
    byId('query').focus();
    byId('query').select();
  }
}

function listenToKeys() {
  byId('graph').addEventListener('keydown', (event) => {
    if (onGraphKey(event)) event.preventDefault();
  });
  document.addEventListener('keydown', onPageKey);
}
