// The page put together: from the state to everything that shows it.

// What is shown now; made anew by every refresh.
const current = { shown: [], touched: new Map(), marks: null };

function announce(text) {
  byId('announcer').textContent = text;
}

function refresh() {
  current.shown = shownEdges();
  current.touched = touchedNodes(current.shown);
  if (state.selected !== null && !current.touched.has(state.selected)) state.selected = null;
  if (state.cursor !== null && !current.touched.has(state.cursor)) moveCursor(null);
  showEdges(current.shown, current.touched);
  showCounts(current.shown);
  showFilters();
  showLegend();
  showMatches(current.touched);
  refreshSelection();
}

let isWaiting = false;

// For what changes many times a second.
function refreshSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    refresh();
  });
}

function refreshSelection() {
  current.marks = state.selected === null ? null : marksOf(state.selected, current.shown);
  markSelection(current.marks, current.shown);
  showSelection(current.marks);
  refreshTable();
}

function refreshTable() {
  const { marks, shown } = current;
  showTable(marks ? marks.edges : shown, marks ? `on the paths of ${nodes[marks.node].id}` : 'shown');
}

// Select a node by its number, or nothing.
function select(number) {
  const had = state.selected !== null;
  state.selected = number;
  if (number !== null) state.cursor = number;
  if (had) showEdges(current.shown, current.touched);
  refreshSelection();
  // The panel stands first beside the graph: it is seen, however far the filters were scrolled.
  if (current.marks) byId('selection').parentElement.scrollTop = 0;
  if (current.marks) announce(selectionText(current.marks));
  else if (had) announce('Selection cleared.');
}

function tooltipText(target) {
  if (target.isNode()) {
    const number = target.data('number');
    const degree = current.touched.get(number) || { in: 0, out: 0 };
    const shared = sharedInto(number);
    return `${nodes[number].id}\n${nodeText(nodes[number])}\n${degree.in} in, ${degree.out} out${shared ? `\n${shared}` : ''}`;
  }
  const edge = edges[target.data('number')];
  const scores = circuits.length === 1
    ? [`score ${figure(edge.scores[0])}`]
    : edge.scores.map((score, index) => `${'AB'[index]}: ${score === null ? 'cut' : `score ${figure(score)}`}`);
  if (hasEffects) scores.push(effectOf(edge) === null ? 'effect not measured' : `cut alone: KL ${figure(effectOf(edge))}`);
  return [`${edge.writer} → ${edge.reader}`, KIND_TEXT[edge.kind], ...scores].join('\n');
}

// Show what a node or an edge is, beside the pointer.
function showTooltip(event) {
  const target = event.target;
  if (target === graph || target.data('number') === undefined) return;
  const tooltip = byId('tooltip');
  target.addClass('hovered');
  tooltip.textContent = tooltipText(target);
  tooltip.hidden = false;
  const place = event.renderedPosition;
  const left = Math.min(place.x + 14, graph.width() - tooltip.offsetWidth - 6);
  const top = place.y + 18 + tooltip.offsetHeight > graph.height() ? place.y - tooltip.offsetHeight - 10 : place.y + 18;
  tooltip.style.left = `${Math.max(6, left)}px`;
  tooltip.style.top = `${Math.max(6, top)}px`;
}

function hideTooltip(event) {
  byId('tooltip').hidden = true;
  if (event && event.target !== graph) event.target.removeClass('hovered');
}

function listenToGraph() {
  graph.on('mouseover', 'node, edge', showTooltip);
  graph.on('mouseout', 'node, edge', hideTooltip);
  graph.on('viewport', () => { byId('tooltip').hidden = true; });
  // Once the zoom has come to rest: styles of thousands of edges are costly.
  let resting = null;
  graph.on('zoom', () => {
    clearTimeout(resting);
    resting = setTimeout(keepReadable, 150);
  });
  graph.on('tap', (event) => {
    byId('graph').focus({ preventScroll: true });
    if (event.target === graph) select(null);
    else if (event.target.isNode()) {
      const number = event.target.data('number');
      moveCursor(null);
      select(number === state.selected ? null : number);
    } else showTooltip(event);
  });
}


function listenToTools() {
  byId('zoom-in').addEventListener('click', () => zoomBy(1.4));
  byId('zoom-out').addEventListener('click', () => zoomBy(1 / 1.4));
  byId('fit').addEventListener('click', fit);
  byId('turn').addEventListener('click', turn);
  byId('save').addEventListener('click', savePng);
  byId('save-svg').addEventListener('click', saveSvg);
  byId('theme').addEventListener('change', applyTheme);
  darkQuery.addEventListener('change', applyTheme);
  byId('table-box').addEventListener('toggle', refreshTable);
  byId('more').addEventListener('click', () => {
    tableView.rows += STEP;
    refreshTable();
  });
}

// Paper gets the light theme and a picture in place of the canvas.
function listenToPrinting() {
  window.addEventListener('beforeprint', () => {
    document.documentElement.dataset.theme = 'light';
    graph.style().fromJson(graphStyle()).update();
    byId('print-picture').src = graph.png({ full: false, scale: 2, bg: colour('graph') });
    byId('print-picture').hidden = false;
  });
  window.addEventListener('afterprint', () => {
    byId('print-picture').hidden = true;
    applyTheme();
  });
}

function start() {
  applyTheme();
  fillFacts();
  fillSets();
  state.minScore = openingSize();
  fillFilters();
  makeGraph();
  keepReadable();
  listenToGraph();
  listenToSearch();
  listenToKeys();
  listenToTools();
  listenToPrinting();
  refresh();
  // For the browser's console: the library's graph, and what is shown.
  window.explorer = { graph, current, state };
  document.documentElement.dataset.ready = 'yes';
}

start();
