// Ways through the edges shown: what leads to a node, what it leads to, and the strongest path through it.
//
// Nodes come in the order of the computation, so that one sweep each way does. An edge into a shared key or
// value ends at its group, and goes on from there to each head of the group.

// Edges into and out of every node, by number; structural steps from a group to its heads have no edge.
function stepsOf(shown) {
  const before = nodes.map(() => []);
  const after = nodes.map(() => []);
  for (const edge of shown) {
    after[edge.source].push({ node: edge.target, edge });
    before[edge.target].push({ node: edge.source, edge });
  }
  nodes.forEach((node, index) => {
    for (const head of node.heads || []) {
      after[index].push({ node: head, edge: null });
      before[head].push({ node: index, edge: null });
    }
  });
  return { before, after };
}

// Nodes and edges reached from a node by going along the steps.
function reach(start, steps) {
  const reached = new Set([start]);
  const passed = new Set();
  const open = [start];
  while (open.length) {
    for (const step of steps[open.pop()]) {
      if (step.edge) passed.add(step.edge);
      if (!reached.has(step.node)) {
        reached.add(step.node);
        open.push(step.node);
      }
    }
  }
  reached.delete(start);
  return { nodes: reached, edges: passed };
}

// Whether one way is stronger than another: its weakest edge decides, then the next weakest, then fewer edges.
// This is the measure `weakest` of analysis.structure.strength.
function isStronger(one, other) {
  for (let place = 0; place < Math.min(one.length, other.length); place += 1) {
    if (one[place] !== other[place]) return one[place] > other[place];
  }
  return one.length < other.length;
}

function withSize(sizes, size) {
  const place = sizes.findIndex((other) => other > size);
  return place < 0 ? [...sizes, size] : [...sizes.slice(0, place), size, ...sizes.slice(place)];
}

// For every node the strongest way to it from one of the ends: its sizes from the weakest up, and its last step.
function bestWays(order, steps, isEnd, sizeOf) {
  const ways = new Array(nodes.length).fill(null);
  for (const node of order) {
    if (isEnd(nodes[node])) ways[node] = { sizes: [], step: null };
    for (const step of steps[node]) {
      const way = ways[step.node];
      if (way === null) continue;
      const sizes = step.edge ? withSize(way.sizes, sizeOf(step.edge)) : way.sizes;
      if (ways[node] === null || isStronger(sizes, ways[node].sizes)) ways[node] = { sizes, step };
    }
  }
  return ways;
}

function follow(ways, start) {
  const steps = [];
  for (let node = start; ways[node] && ways[node].step; node = ways[node].step.node) steps.push(ways[node].step);
  return steps;
}

// The strongest path from the embeddings to the logits through a node: its edges, its nodes in turn, and the
// weakest size; null where there is none.
function strongestPath(through, shown, sizeOf) {
  const { before, after } = stepsOf(shown);
  const order = nodes.map((_, index) => index);
  const ways = bestWays(order, before, (node) => node.kind === 'embedding', sizeOf);
  const onward = bestWays(order.slice().reverse(), after, (node) => node.kind === 'logits', sizeOf);
  if (ways[through] === null || onward[through] === null) return null;
  const back = follow(ways, through).reverse();
  const forth = follow(onward, through);
  const passed = [...back, ...forth].map((step) => step.edge).filter((edge) => edge !== null);
  if (!passed.length) return null;
  return {
    edges: passed,
    nodes: [...back.map((step) => step.node), through, ...forth.map((step) => step.node)],
    weakest: Math.min(...passed.map(sizeOf)),
  };
}
