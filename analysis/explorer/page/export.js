// Pictures to keep: what the graph shows now, with title, counts and legend, as PNG or SVG.

const PAGE = { margin: 24, line: 20, swatch: 34 };

// The legend's lines as text with a colour and a pattern.
function legendLines() {
  const dash = { solid: '', dashed: '8 5', dotted: '2 4' };
  const lines = state.colourBy === 'kind'
    ? contents.kinds.map((kind) => ({ text: KIND_TEXT[kind], colour: colour(kind), dash: dash[LINES[kind]] }))
    : Object.entries(MEMBER_LINES).map(([name, line]) => ({ text: memberText(name), colour: colour(name), dash: dash[line] }));
  if (current.marks && current.marks.path) lines.push({ text: 'strongest path', colour: colour('path'), dash: '' });
  return lines;
}

const shapesText = () => `oval: head, violet box: MLP, grey box: input or logits${nodes.some((node) => node.kind === 'group') ? ', diamond: key and value of several heads' : ''}`;

const escaped = (text) => String(text).replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);

// Curves of an edge in page coordinates: quadratic ones through the midpoints of its control points.
function pathOf(drawn) {
  const controls = drawn.controlPoints() || [];
  const [start, end] = [drawn.sourceEndpoint(), drawn.targetEndpoint()];
  const at = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  const pieces = controls.map((control, index) => {
    const next = controls[index + 1];
    return `Q${at(control)} ${at(next ? { x: (control.x + next.x) / 2, y: (control.y + next.y) / 2 } : end)}`;
  });
  return `M${at(start)} ${pieces.length ? pieces.join(' ') : `L${at(end)}`}`;
}

function svgEdge(drawn) {
  const dash = { dashed: ' stroke-dasharray="9 6"', dotted: ' stroke-dasharray="2 5"' }[drawn.style('line-style')] || '';
  const way = `d="${pathOf(drawn)}" fill="none"`;
  const under = drawn.hasClass('on-path') ? `<path ${way} stroke="${colour('path')}" stroke-opacity="0.45" stroke-width="${drawn.numericStyle('width') + 12}"/>` : '';
  return `${under}<path ${way} stroke="${drawn.style('line-color')}" stroke-opacity="${drawn.numericStyle('opacity')}" stroke-width="${drawn.numericStyle('width')}"${dash}/>`;
}

function svgNode(node) {
  const { x, y } = node.position();
  const [w, h] = [node.numericStyle('width'), node.numericStyle('height')];
  const look = `fill="${node.style('background-color')}" stroke="${node.style('border-color')}" stroke-width="${node.numericStyle('border-width')}"`;
  const kind = node.data('kind');
  const shapes = {
    head: `<ellipse cx="${x}" cy="${y}" rx="${w / 2}" ry="${h / 2}" ${look}/>`,
    group: `<path d="M${x - w / 2} ${y} L${x} ${y - h / 2} L${x + w / 2} ${y} L${x} ${y + h / 2} Z" ${look}/>`,
    axis: '',
  };
  const shape = shapes[kind] ?? `<rect x="${x - w / 2}" y="${y - h / 2}" width="${w}" height="${h}" rx="6" ${look}/>`;
  const size = node.numericStyle('font-size');
  const text = node.style('label');
  const label = text ? `<text x="${x}" y="${y + size / 3}" font-size="${size}" fill="${node.style('color')}" text-anchor="middle">${escaped(text)}</text>` : '';
  return `<g opacity="${node.numericStyle('opacity')}">${shape}${label}</g>`;
}

// The picture as SVG text; sizes are those of the screen.
function svgPicture() {
  const drawn = graph.edges().filter((edge) => edge.visible()).map(svgEdge);
  const placed = graph.nodes().filter((node) => node.visible()).map(svgNode);
  const { x1, y1, w, h } = graph.elements().boundingBox();
  const width = Math.max(900, Math.min(1800, w * 0.5)) + 2 * PAGE.margin;
  const scale = (width - 2 * PAGE.margin) / w;
  const items = legendLines();
  const perRow = Math.max(1, Math.floor((width - 2 * PAGE.margin) / 170));
  const rows = Math.ceil(items.length / perRow);
  const told = [byId('counts').textContent, ...circuits.map((circuit, index) => (circuits.length > 1 ? `${'AB'[index]}: ${circuit.name}` : ''))].filter(Boolean);
  const notes = [`Lines: ${widthText()}.`, `Shapes: ${shapesText()}.`];
  const head = PAGE.margin + PAGE.line * (1.4 + told.length + rows + notes.length) + 10;
  const line = (text, place, extra = '') => `<text x="${PAGE.margin}" y="${(PAGE.margin + PAGE.line * place).toFixed(1)}" ${extra} fill="${colour('ink')}">${escaped(text)}</text>`;
  const top = 1.4 + told.length;
  const legend = items.map((item, index) => {
    const x = PAGE.margin + 170 * (index % perRow);
    const y = PAGE.margin + PAGE.line * (top + Math.floor(index / perRow));
    return `<path d="M${x} ${y - 4} h26" stroke="${item.colour}" stroke-width="3" stroke-dasharray="${item.dash || 'none'}"/>`
      + `<text x="${x + PAGE.swatch}" y="${y}" font-size="13" fill="${colour('ink')}">${escaped(item.text)}</text>`;
  });
  const height = head + scale * h + PAGE.margin;
  return {
    width, height,
    text: `<svg xmlns="http://www.w3.org/2000/svg" width="${width.toFixed(0)}" height="${height.toFixed(0)}" viewBox="0 0 ${width.toFixed(1)} ${height.toFixed(1)}" font-family="Helvetica, Arial, sans-serif">`
      + `<title>${escaped(contents.title)}</title><rect width="100%" height="100%" fill="${colour('graph')}"/>`
      + line(contents.title, 0.4, 'font-size="17" font-weight="bold"')
      + told.map((text, index) => line(text, 1.4 + index, 'font-size="13"')).join('')
      + legend.join('') + notes.map((text, index) => line(text, top + rows + index, 'font-size="12"')).join('')
      + `<g transform="translate(${PAGE.margin} ${head}) scale(${scale.toFixed(4)}) translate(${-x1} ${-y1})">${drawn.join('')}${placed.join('')}</g></svg>`,
  };
}

function saveAs(name, address) {
  element('a', { attributes: { href: address, download: name } }).click();
}

const svgAddress = (text) => `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;

function saveSvg() {
  saveAs('circuit.svg', svgAddress(svgPicture().text));
}

function savePng() {
  const { width, height, text } = svgPicture();
  const image = new Image();
  image.addEventListener('load', () => {
    const canvas = element('canvas', { attributes: { width: Math.round(2 * width), height: Math.round(2 * height) } });
    const pen = canvas.getContext('2d');
    pen.scale(2, 2);
    pen.drawImage(image, 0, 0, width, height);
    saveAs('circuit.png', canvas.toDataURL('image/png'));
  });
  image.src = svgAddress(text);
}
