// The shown edges as a table, for reading and for screen readers: the first 200, and more on demand.

const STEP = 200;
const tableView = { rows: STEP, by: 'score', isRising: false };

const COLUMNS = [
  { name: 'writer', text: 'Writer', key: (edge) => edge.source, cell: (edge) => edge.writer },
  { name: 'reader', text: 'Reader', key: (edge) => edge.target, cell: (edge) => edge.reader },
  { name: 'kind', text: 'Feeds', key: (edge) => contents.kinds.indexOf(edge.kind), cell: (edge) => KIND_TEXT[edge.kind] },
  { name: 'score', text: '|Score|', key: sizeOf, cell: (edge) => figure(scoreOf(edge)), isNumber: true },
];

function tableColumns() {
  const effects = hasEffects ? [{
    name: 'effect', text: 'KL if cut alone', isNumber: true,
    key: (edge) => effectOf(edge) ?? -Infinity, cell: (edge) => figure(effectOf(edge)),
  }] : [];
  if (circuits.length === 1) return [...COLUMNS.map((column) => (column.name === 'score' ? { ...column, text: 'Score' } : column)), ...effects];
  const own = circuits.map((_, index) => ({
    name: `score-${index}`, text: `Score in ${'AB'[index]}`, isNumber: true,
    key: (edge) => strengthIn(index)(edge) ?? 0, cell: (edge) => figure(edge.scores[index]),
  }));
  return [...COLUMNS.slice(0, 3), { ...COLUMNS[3], text: 'Score shown' }, ...own, ...effects];
}

function headerCell(column) {
  const isSorted = tableView.by === column.name;
  const button = element('button', { text: `${column.text}${isSorted ? (tableView.isRising ? ' ▲' : ' ▼') : ''}`, attributes: { type: 'button', 'data-column': column.name } });
  button.addEventListener('click', () => {
    tableView.isRising = isSorted ? !tableView.isRising : !column.isNumber;
    tableView.by = column.name;
    refreshTable();
    byId('table').querySelector(`[data-column="${column.name}"]`).focus();
  });
  const order = isSorted ? (tableView.isRising ? 'ascending' : 'descending') : 'none';
  return element('th', { className: column.isNumber ? 'number' : '', attributes: { scope: 'col', 'aria-sort': order }, children: [button] });
}

// Fill the table, if it is open, with the edges that the graph shows now.
function showTable(listed, about) {
  if (!byId('table-box').open) return;
  const columns = tableColumns();
  const { key } = columns.find((column) => column.name === tableView.by);
  const sign = tableView.isRising ? 1 : -1;
  const sorted = [...listed].sort((one, other) => sign * (key(one) - key(other)) || one.index - other.index);
  const rows = sorted.slice(0, tableView.rows).map((edge) => element('tr', {
    children: columns.map((column) => element('td', { text: column.cell(edge), className: column.isNumber ? 'number' : '' })),
  }));
  const isCut = rows.length < listed.length;
  const caption = `${isCut ? `The first ${count(rows.length)} of ` : ''}${plural(listed.length, 'edge')} ${about}${isCut ? ', in this order' : ''}`;
  byId('table').querySelector('caption').textContent = caption;
  byId('table').querySelector('thead').replaceChildren(element('tr', { children: columns.map(headerCell) }));
  byId('table').querySelector('tbody').replaceChildren(...rows);
  byId('more').hidden = !isCut;
}
