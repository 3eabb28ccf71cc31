"""What parts of the full model do on prompts: how heads attend, what writers say, and what that adds to the logits.

The model runs once. What a writer adds to the logits is read through the lens of that run, see
`circuitgraph.forward.lens`: with all writers and the biases it adds up to the logits. It is the *direct* effect: what a
writer does through later heads and MLPs is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.lens import Lens, said_at_asked
from circuitgraph.forward.patterns import attention_patterns
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.execution.objectives import first_asked, right_tokens
from pruning.heads.tokens import decoder, tokens_of
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.whole_numbers import whole_number

BIASES = "bias"
"""What no writer says: biases of attention layers, of the final norm and of the output head."""
_CELLS = 1 << 24
"""How many numbers of the lens are held at once."""
_TOP = 5
"""How many of the tokens that a node says most are kept."""
_MEASURES = ("right", "wrong", "average", "type", "rank", "probability", "attended")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Capture:
    """What was captured, on the host.

    Attributes:
        universe: The model's.
        nodes: Writers whose outputs were captured, in the order of the computation; `bias` stands last, if it is there.
        heads: Heads among them, whose attention was captured.
        ids: Token ids of each prompt `[seq]`.
        tokens: The same as text.
        asked: For each asked position, the prompt and the position in it `[asked 2]`.
        causal: Whether heads see earlier positions alone.
        patterns: Attention for each prompt, `[head seq seq]`: looking position, position looked at.
        said: What each node adds to the residual stream at the asked positions `[node asked d_model]`.
        direct: What each adds to the logits there, `[node asked]` by name: `right`, the mean over the right tokens;
            `wrong`, over the wrong ones (NaN without); `average`, over the vocabulary; `type`, over the right tokens of
            all prompts; `attended`, the token that a head looks at most, the first position aside (NaN of others, and
            where a model's outputs are no tokens of its inputs). `rank` is the place of the best right token among
            all tokens in what the node says, 1 being the highest (tokens of which it says the same share their mean
            place), and `probability` that of the right tokens if the node alone spoke. Of numbers there is `right`
            alone.
        logits: The model's own, before a cap, by the same names but `attended` `[asked]`.
        top_ids: Of each node and asked position the tokens that it says most, the first ones first
            `[node asked most]`; none where outputs are numbers.
        top_direct: How much more than to the average token it adds to their logits `[node asked most]`.
        said_tokens: Of these tokens, the text by id.
    """

    universe: Universe
    nodes: tuple[str, ...]
    heads: tuple[str, ...]
    ids: tuple[np.ndarray, ...]
    tokens: tuple[tuple[str, ...], ...]
    asked: Int[np.ndarray, "asked 2"]
    causal: bool
    patterns: tuple[np.ndarray, ...]
    said: Float[np.ndarray, "node asked d_model"]
    direct: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    top_ids: Int[np.ndarray, "node asked most"]
    top_direct: Float[np.ndarray, "node asked most"]
    said_tokens: dict[int, str]

    def __repr__(self) -> str:
        return f"<Capture of {len(self.nodes)} nodes, {len(self.heads)} of them heads, on {len(self.ids)} prompts>"

    @property
    def table(self) -> pd.DataFrame:
        """A row per node: means over the asked positions; effects less their average over the vocabulary.

        `node`, `direct` (on the right tokens), `difference` (right less wrong), `type`, `attended`, `probability`, and
        `rank`, the median.
        """
        of = self.direct
        columns = {
            "direct": of["right"] - of["average"],
            "difference": of["right"] - of["wrong"],
            "type": of["type"] - of["average"],
            "attended": of["attended"] - of["average"],
            "probability": of["probability"],
        }
        frame = pd.DataFrame({"node": self.nodes, **{name: _mean(values) for name, values in columns.items()}})
        frame["rank"] = _median(of["rank"])
        return frame

    def index(self, node: str) -> int:
        """The place of a node.

        Args:
            node: Its name.

        Raises:
            UnknownNameError: It was not captured.
        """
        if node not in self.nodes:
            raise UnknownNameError.of("captured node", node, self.nodes)
        return self.nodes.index(node)

    def top_tokens(self, node: str, prompt: int) -> list[list[tuple[str, float]]]:
        """What a node says most, at each asked position of a prompt.

        Args:
            node: Its name.
            prompt: Which prompt.

        Returns:
            For each asked position the tokens, each with how much more than to the average token is added to its
            logit; the largest first.

        Raises:
            UnknownNameError: It was not captured.
        """
        place = self.index(node)
        return [
            [
                (self.said_tokens[token], value)
                for token, value in zip(
                    self.top_ids[place, at].tolist(), self.top_direct[place, at].tolist(), strict=True
                )
            ]
            for at in np.flatnonzero(self.asked[:, 0] == prompt).tolist()
        ]


def means_by_prompt(
    values: Float[np.ndarray, "node asked"], prompts: Int[np.ndarray, " asked"]
) -> Float[np.ndarray, "prompt node"]:
    """Means over each prompt's asked positions, NaN where none of them has a value.

    Args:
        values: A value per node and asked position.
        prompts: The prompt of each asked position.

    Examples:
        >>> means_by_prompt(np.array([[1.0, 3.0, np.nan]]), np.array([0, 0, 1])).tolist()
        [[2.0], [nan]]
    """
    return np.stack([_mean(values[:, prompts == prompt]) for prompt in np.unique(prompts)])


def _mean(values: Float[np.ndarray, "node asked"]) -> np.ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(1) / known.sum(1)


def _median(values: Float[np.ndarray, "node asked"]) -> np.ndarray:
    return np.array([np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in values])


@in_settled_state
def capture(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    nodes: Sequence[str] | None = None,
    *,
    batch_size: int = 8,
    tick: Callable[[int, int], None] | None = None,
) -> Capture:
    """Capture what parts of the full model do on prompts.

    Args:
        compiled: The model.
        pairs: The prompts, at least one; their counterfactuals are not run.
        nodes: Writers such as `a3.h7` and `m2`, and `bias`; all by default.
        batch_size: Prompts run at once; halved when memory runs out.
        tick: Called with the number of prompts done and of all.

    Returns:
        What was captured, on the host.

    Raises:
        ConfigurationError: No prompts.
        UnknownNameError: No such writer.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> pairs = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3}).split("test")
        >>> found = capture(compiled, pairs)
        >>> bool(abs(found.direct["right"].sum(0) - found.logits["right"]).max() < 1e-4)  # they add up
        True
        >>> int(found.table.set_index("node")["rank"]["a3.h0"])  # the last head says the program's answer
        1
    """
    if not len(pairs):
        raise ConfigurationError("there is nothing to capture: the split has no prompts")
    return _Capturing(compiled, pairs, nodes).run(whole_number("batch_size", batch_size, least=1), tick)


class _Capturing:
    """What all batches of one capture have in common."""

    def __init__(self, compiled: CompiledModel, pairs: EncodedPairs, nodes: Sequence[str] | None) -> None:
        self.compiled, self.pairs = compiled, pairs
        universe = compiled.universe
        refuse_spans(universe, "the look at heads")
        names = (*universe.writers, BIASES)
        for name in nodes or ():
            if name not in names:
                raise UnknownNameError.of("writer", name, names)
        chosen = names if nodes is None else [name for name in names if name in set(nodes)]
        self.nodes, self.rows = tuple(chosen), [names.index(name) for name in chosen]
        kinds = [*universe.writer_kinds.tolist(), BIASES]
        self.heads = tuple(name for name, row in zip(self.nodes, self.rows, strict=True) if kinds[row] == "head")
        self.numeric = pairs.answer_values is not None
        # What a program puts out has columns of its own.
        self.same_vocabulary = not self.numeric and universe.family != "tracr"
        self.type = None if self.numeric else self._all_right_tokens()

    def run(self, batch_size: int, tick: Callable[[int, int], None] | None) -> Capture:
        done = 0
        patterns: dict[int, np.ndarray] = {}
        parts: list[tuple[np.ndarray, dict[str, Tensor]]] = []
        portions = Portions(self.compiled, batch_size)
        for some in batches_by_length(self.pairs.by_length, batch_size):
            for prompts, pattern, found in portions.run(self._of_prompts, some):
                patterns |= dict(zip(prompts.tolist(), pattern, strict=True))
                asked = [(prompt, at) for prompt in prompts for at in self.pairs.predict_positions[prompt]]
                parts.append((np.array(asked), found))
                done += len(prompts)
                if tick is not None:
                    tick(done, len(self.pairs))
        asked = np.concatenate([one for one, _ in parts])
        order = np.lexsort((asked[:, 1], asked[:, 0]))
        joined = {name: torch.cat([found[name] for _, found in parts], 1).numpy()[:, order] for name in parts[0][1]}
        say = self._said_decoder()
        return Capture(
            universe=self.compiled.universe, nodes=self.nodes, heads=self.heads, ids=self.pairs.clean_ids,
            tokens=tokens_of(self.compiled, self.pairs),
            asked=asked[order], causal=self.compiled.shape.causal,
            patterns=tuple(patterns[prompt] for prompt in range(len(self.pairs))),
            said=joined["said"], direct={name: joined[name][:-1] for name in _MEASURES},
            logits={name: joined[name][-1] for name in _MEASURES if name != "attended"},
            top_ids=joined["top_ids"][:-1], top_direct=joined["top_direct"][:-1],
            said_tokens={token: say(token) for token in np.unique(joined["top_ids"][:-1]).tolist()},
        )  # fmt: skip

    @torch.no_grad()
    def _of_prompts(self, prompts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], dict[str, Tensor]]:
        """Of prompts of one length: their numbers, attention by prompt, and what is said, all nodes and the logits."""
        compiled, model = self.compiled, self.compiled.runnable
        batch = self.pairs.batch(prompts, device=compiled.device)
        _, ran = compiled.run_with_values(batch.clean)
        patterns = self._patterns(ran, batch)
        said = said_at_asked(model, ran, batch.clean)
        lens = Lens.of(model.bound, said.sum(0))
        found = self._through_lens(lens, said, patterns, batch)
        wide = {"said": said[self.rows].float().cpu(), **{name: values.cpu() for name, values in found.items()}}
        return prompts, list(patterns.transpose(0, 1).float().cpu().numpy()), wide

    def _patterns(self, ran: object, batch: PairBatch) -> Tensor:
        """Attention of the captured heads `[head batch seq seq]`."""
        universe, model = self.compiled.universe, self.compiled.runnable
        by_layer: dict[int, Tensor] = {}
        rows = []
        for name in self.heads:
            writer = universe.writers.index(name)
            layer = int(universe.writer_layers[writer])
            if layer not in by_layer:
                by_layer = {layer: attention_patterns(model, ran, batch.clean, layer)}  # type: ignore[arg-type]
            rows.append(by_layer[layer][int(name.rpartition("h")[2])])
        size = batch.clean.input_ids.shape
        return torch.stack(rows) if rows else torch.zeros(0, *size, size[1])

    def _through_lens(
        self, lens: Lens, said: Tensor, patterns: Tensor, batch: PairBatch
    ) -> dict[str, Float[Tensor, "node_and_logits asked"]]:
        """Every measure of the captured nodes, and in the last row that of the logits."""
        n_asked = said.shape[1]
        targets = self._targets(self.pairs.batch(batch.index.tolist()))
        looked_at = self._looked_at(patterns, batch)
        vocabulary = self.compiled.shape.d_vocab
        at_once = max(1, _CELLS // (n_asked * vocabulary))
        whole = said.sum(0, keepdim=True)
        pieces: dict[str, list[Tensor]] = {name: [] for name in (*_MEASURES, "top_ids", "top_direct")}
        most = 0 if self.numeric else min(_TOP, vocabulary)
        rows = self.rows
        for start in range(0, len(rows) + 1, at_once):
            places = range(start, min(start + at_once, len(rows) + 1))
            parts = torch.stack([said[rows[place]] if place < len(rows) else whole[0] for place in places])
            logits = lens.logits(parts).double()
            for row, place in enumerate(places):
                if place == len(rows) or self.nodes[place] == BIASES:
                    logits[row] += lens.constant
            for name, values in _measured(logits, targets, self.type).items():
                pieces[name].append(values)
            top = (logits - logits.mean(-1, keepdim=True)).topk(most, -1)
            pieces["top_ids"].append(top.indices)
            pieces["top_direct"].append(top.values)
            tokens = torch.stack([looked_at.get(place, torch.full((n_asked,), -1)) for place in places])
            pieces["attended"].append(_at(logits, tokens[..., None]))
        return {name: torch.cat(values) for name, values in pieces.items()}

    def _targets(self, batch: PairBatch) -> dict[str, Tensor]:
        """Right and wrong tokens of each asked position, padded with -1 `[asked choice]`."""
        n_asked = len(batch.clean.predict_index)
        none = torch.full((n_asked, 1), -1)
        if self.numeric:
            return {"right": torch.zeros(n_asked, 1, dtype=torch.long), "wrong": none}
        first, sets = first_asked(batch), right_tokens(batch)
        own = none if batch.answer_ids is None else batch.answer_ids[:, None]
        if sets is None:
            return {"right": none, "wrong": none}
        right = torch.full((n_asked, sets.shape[1]), -1)
        right[:, :1] = own
        right[first] = sets
        wrong = none
        if batch.wrong_ids is not None:
            wrong = torch.full((n_asked, batch.wrong_ids.shape[1]), -1)
            wrong[first] = batch.wrong_ids
        return {"right": right, "wrong": wrong}

    def _looked_at(self, patterns: Tensor, batch: PairBatch) -> dict[int, Tensor]:
        """By place of a head among the nodes, the token that it looks at most, the first position aside `[asked]`."""
        if not self.same_vocabulary or batch.clean.input_ids.shape[1] < 2:
            return {}
        flat = patterns.flatten(1, 2)[:, batch.clean.predict_index]
        best = flat[..., 1:].argmax(-1) + 1
        ids = batch.clean.input_ids[batch.clean.predict_prompt]
        return {
            self.nodes.index(name): ids.gather(1, row[:, None])[:, 0].cpu()
            for name, row in zip(self.heads, best, strict=True)
        }

    def _all_right_tokens(self) -> Tensor | None:
        columns = [self.pairs.correct_ids, self.pairs.answer_ids]
        found = [int(ids[0]) for column in columns if column is not None for ids in column if len(ids)]
        return torch.tensor(sorted(set(found))) if found else None

    def _said_decoder(self) -> Callable[[int], str]:
        """A program's outputs have columns of their own."""
        if self.compiled.tokenizer is None or self.compiled.universe.family != "tracr":
            return decoder(self.compiled)
        symbols = self.compiled.tokenizer.output_symbols
        return lambda token: str(symbols[token])


def _measured(
    logits: Float[Tensor, "node asked d_vocab"], targets: dict[str, Tensor], of_type: Tensor | None
) -> dict[str, Float[Tensor, "node asked"]]:
    """What is said of right and wrong tokens, of all, and where the right one stands."""
    right = targets["right"]
    found = {name: _at(logits, ids.expand(len(logits), -1, -1)) for name, ids in targets.items()}
    nothing = torch.full_like(found["right"], torch.nan)
    if logits.shape[-1] == 1:
        return {**found, "average": torch.zeros_like(nothing), "type": nothing, "rank": nothing, "probability": nothing}
    chosen = logits.gather(-1, right.clamp(min=0).expand(len(logits), -1, -1)).masked_fill(right < 0, -torch.inf)
    best = chosen.amax(-1)
    known = (right >= 0).any(-1)
    above, alike = ((logits > best[..., None]).sum(-1).double(), (logits == best[..., None]).sum(-1).double())
    return {
        **found,
        "average": logits.mean(-1),
        "type": nothing if of_type is None else logits[..., of_type.to(logits.device)].mean(-1),
        "rank": (above + (alike + 1) / 2).masked_fill(~known, torch.nan),
        "probability": (chosen.logsumexp(-1) - logits.logsumexp(-1)).exp().masked_fill(~known, torch.nan),
    }


def _at(
    logits: Float[Tensor, "node asked d_vocab"], ids: Int[Tensor, "node asked choice"]
) -> Float[Tensor, "node asked"]:
    """The mean over some tokens, padded with -1; NaN where there are none."""
    ids = ids.to(logits.device)
    values = logits.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0)
    return values.sum(-1) / (ids >= 0).sum(-1)
