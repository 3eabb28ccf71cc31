// What a selected head does: its roles, where it looks on a few prompts, and the tokens that it says most.

const LOOKED_AT = 4;
const headView = { prompt: 0, from: null };

function rolesText(node) {
  const does = contents.heads && contents.heads.of[node.id];
  return does && does.roles.length ? ` Roles: ${does.roles.join(', ')}.` : '';
}

// A token as it can be seen: line ends and empty ones have signs of their own.
function tokenText(token) {
  return token === '' ? '∅' : token.replace(/\r?\n|\r/g, '⏎').replace(/\t/g, '⇥');
}

const quoted = (token) => element('bdi', { text: `“${tokenText(token)}”` });

function headPart(node) {
  if (!contents.heads || node.kind !== 'head') return [];
  const does = contents.heads.of[node.id];
  const box = (children) => [element('div', { attributes: { id: 'head' }, children })];
  if (!does) return box([element('p', { className: 'small', text: 'What this head does was not looked at.' })]);
  const roles = element('p', { className: 'roles', text: does.roles.length ? does.roles.join(', ') : 'no role' });
  const says = does.direct === null ? [] : [element('p', { className: 'small', text: directText(does) })];
  return box([roles, ...says, ...promptPart(does)]);
}

function directText(does) {
  const rank = does.rank === null ? '' : `; it is number ${count(does.rank)} of all that the head says (median)`;
  return `The right answer's logit gets ${figure(does.direct)} next to the average token's${rank}. On ${contents.heads.about}.`;
}

function promptPart(does) {
  const { prompts, left_out: leftOut } = contents.heads;
  const note = leftOut ? [element('p', { className: 'small', text: leftOut })] : [];
  if (!prompts.length) return note;
  const prompt = prompts[headView.prompt];
  const from = headView.from ?? prompt.asked[0] ?? prompt.tokens.length - 1;
  const shares = does.attention[headView.prompt][from] || [];
  return [...promptPicker(), tokenLine(prompt, from, shares), targets(prompt, from, shares), ...saidPart(does, prompt, from), ...note];
}

function look(change) {
  Object.assign(headView, change);
  const old = byId('head');
  old.replaceWith(...headPart(nodes[state.selected]));
}

function promptPicker() {
  const { prompts } = contents.heads;
  if (prompts.length < 2) return [];
  const picker = element('select', {
    attributes: { 'aria-label': 'Prompt', id: 'prompt' },
    children: prompts.map((_, index) => element('option', { text: `prompt ${index + 1} of ${prompts.length}`, attributes: { value: index } })),
  });
  picker.value = headView.prompt;
  picker.addEventListener('change', () => {
    look({ prompt: Number(picker.value), from: null });
    byId('prompt').focus();
  });
  return [picker];
}

// The prompt as text, each token the darker the more the head looks at it from the marked one; a click looks from there.
function tokenLine(prompt, from, shares) {
  const tokens = prompt.tokens.map((token, place) => {
    const share = shares[place] || 0;
    const isFrom = place === from;
    const button = element('button', {
      text: tokenText(token), className: `token${isFrom ? ' from' : ''}`,
      attributes: {
        type: 'button', 'data-place': place, title: `${place}: ${share} %`, tabindex: isFrom ? 0 : -1,
        'aria-pressed': isFrom, 'aria-label': `${tokenText(token)}, ${share} percent`,
      },
    });
    button.style.setProperty('--share', `${0.75 * share}%`);
    button.addEventListener('click', () => lookFrom(place));
    return button;
  });
  const line = element('div', {
    className: 'text', attributes: { role: 'group', 'aria-label': 'Tokens of the prompt; arrow keys look from the next one', title: 'Click a token to look from there' }, children: tokens,
  });
  line.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const place = from + step;
    if (!step || place < 0 || place >= tokens.length) return;
    event.preventDefault();
    lookFrom(place);
  });
  return line;
}

function lookFrom(place) {
  look({ from: place });
  byId('head').querySelector('.token.from').focus();
}

function targets(prompt, from, shares) {
  const listed = shares.map((share, place) => ({ share, place })).filter(({ share }) => share > 0)
    .sort((one, other) => other.share - one.share || one.place - other.place).slice(0, LOOKED_AT);
  const told = listed.flatMap(({ share, place }, number) => [number ? ', ' : ' it looks at ', quoted(prompt.tokens[place]), ` (${place}) ${share} %`]);
  return element('p', {
    className: 'small', attributes: { id: 'looks-at' },
    children: ['From ', quoted(prompt.tokens[from]), ` (${from})`, ...(told.length ? told : [': less than 1 % at every token']), '.'],
  });
}

function saidPart(does, prompt, from) {
  const said = does.says[headView.prompt][prompt.asked.indexOf(from)];
  if (!said || !said.length) return [];
  const listed = said.flatMap(([token, value], number) => [number ? ', ' : '', quoted(token), ` ${value > 0 ? '+' : ''}${figure(value)}`]);
  return [element('p', { className: 'small', attributes: { id: 'says' }, children: ['Says most: ', ...listed, ' (logits, less their average).'] })];
}
