// The way of every edge: through the gutters between layers and the corridors between heads, where no node stands.
//
// An edge leaves its writer into the gutter behind the writer's layer, runs across to a corridor beside the reader's
// lane (beside the writer's own lane, where it goes to the logits), along it, and from there into its reader. Control
// points close to every turn hold the curve in its corridor. Offsets keep edges of one corridor apart.

const HALF = 33;
const TURN = 18;
const laneOfMlps = (universe.n_heads) * contents.gaps.across;

// From -1 to 1, another for each edge, the same each time.
const spread = (number, steps) => (((number * 7) % steps) / (steps - 1)) * 2 - 1;

function columnOf(node) {
  if (node.kind === 'embedding' || node.kind === 'logits') return node.along;
  return (node.layer + contents.gaps.first) * contents.gaps.along;
}

// Control points of an edge, as places along and across.
function wayOf(edge) {
  const from = nodes[edge.source];
  const to = nodes[edge.target];
  const { along, across } = contents.gaps;
  const isOut = to.kind === 'logits';
  const isArc = from.kind === 'mlp' && to.kind === 'mlp';
  const gutter = from.kind === 'embedding'
    ? from.along + 62 + 6 * spread(edge.index, 5)
    : columnOf(from) + (HALF + 0.6 * along - 10) / 2 + Math.max(0, (0.6 * along - 10 - HALF) / 2 - 3) * spread(edge.index, 5);
  // An embedding stands on no lane; beside the middle of some lane there is always a corridor.
  const lane = !isOut ? to.across : from.kind === 'embedding' ? Math.floor(from.across / across) * across : from.across;
  const beside = isArc ? 1 : Math.sign((isOut ? to.across : from.across) - lane) || (lane === laneOfMlps ? -1 : 1);
  const room = Math.max(0, across / 2 - HALF - 4);
  const depth = isArc ? Math.min(70, 0.05 * (to.along - from.along)) : 0;
  const corridor = lane + beside * (across / 2 + depth) + room * spread(edge.index, 11);
  const turn = Math.min(TURN, Math.abs(corridor - from.across) / 2) * Math.sign(corridor - from.across);
  const before = to.along - (isOut ? 62 : to.kind === 'group' ? 16 : HALF + 3);
  // An MLP stands across the gutter, and is left by its side, clear of the border of a selected one.
  const first = from.kind === 'mlp' ? Math.sign(corridor - from.across) * Math.min(HALF + 5, Math.abs(corridor - from.across)) : 0;
  const out = first
    ? [{ a: gutter, c: from.across + first }]
    : [{ a: gutter, c: from.across }, { a: gutter, c: from.across + turn }];
  if (!first || Math.abs(corridor - from.across) > 2 * HALF) out.push({ a: gutter, c: corridor - turn });
  if (before - 2 * TURN < gutter + 2 * TURN) return [...out, { a: gutter, c: corridor }];
  return [
    ...out, { a: gutter + TURN / 2, c: corridor }, { a: gutter + 1.5 * TURN, c: corridor },
    { a: before - TURN, c: corridor }, { a: before, c: corridor },
  ];
}

// The step from a shared key and value to one of its heads, straight across before the layer.
function stepWay(group, head) {
  return [{ a: group.along - 8, c: head.across }];
}

// The same as Cytoscape wants it: shares of the straight line between the ends, and distances from it.
function bendsOf(from, to, way) {
  const [a, c] = [to.along - from.along, to.across - from.across];
  const length = Math.hypot(a, c) || 1;
  const inside = (point) => ({ a: point.a - from.along, c: point.c - from.across });
  return {
    weights: way.map(inside).map((point) => (point.a * a + point.c * c) / length ** 2),
    distances: way.map(inside).map((point) => (point.c * a - point.a * c) / length),
  };
}
