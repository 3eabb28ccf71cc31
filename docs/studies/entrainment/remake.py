"""Make the results of the page on entrainment: `python docs/studies/entrainment/remake.py [rises] [heads] [others]`.

`rises.csv`: logit of a word that was said before, with and without the sentence that says it, in four kinds of
sentence, and with a sentence on a third country in its place. `heads.csv` and `heads.json`: the question after a false
sentence, with heads cut: those that the search finds, and as many random ones. `others.csv`: what the same cuts do to
other tasks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuitgraph import CompiledModel, Intervention, compile_model, intervene, load_model
from pruning import EncodedPairs, PromptPair, load_task
from pruning.execution.objectives import first_asked
from pruning.prompts.encoding import encode_pairs
from pruning.steering.suppression import SuppressionSettings, find_suppression
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.entrainment import SENTENCES

HERE = Path(__file__).parent
N_RISES, N_RANDOM, N_OTHERS = 200, 10, 60
KEEP, STEPS = (0.1,), 60
SUBJECTS = {"train": (18, 160), "validation": (6, 24), "test": (10, 60)}
"""How many countries, and how many prompts about them."""
THINGS = ("guitar", "bottle", "window", "camera", "horse", "garden", "pencil", "jacket", "hammer", "basket")
WORDS = ("river", "seven", "quick", "paper", "under", "green", "often", "stone", "begin", "light", "maybe", "chair")


# ------------------------------------------------------------- what a sentence does to a word that it says


def rises(compiled: CompiledModel) -> None:
    """Measure the logit of a word with and without the sentence that says it."""
    rng, of_thirds = np.random.default_rng(0), np.random.default_rng(1)
    rows = []
    usable = [country for country, city in CAPITALS.items() if len(compiled.tokenizer(f" {city}")["input_ids"]) == 1]
    for number in range(N_RISES):
        country, other = rng.choice(usable, 2, replace=False)
        words = rng.choice(WORDS, 5, replace=False)
        thing = str(rng.choice(THINGS))
        third = of_thirds.choice([one for one in usable if one not in (country, other)])
        question = f"The capital of {country} is"
        related = f"The capital of {other} is {CAPITALS[other]}. "
        said = {
            "related": (related, "", CAPITALS[other]),
            "irrelevant": (f"My neighbour has bought a {thing}. ", "", thing),
            "random words": (" ".join(words).capitalize() + ". ", "", words[2]),
            "counterfactual": (f"The capital of {country} is {CAPITALS[other]}. ", "", CAPITALS[other]),
            "related, a third": (related, f"The capital of {third} is {CAPITALS[third]}. ", CAPITALS[other]),
        }
        rows += [
            {
                "prompt": number,
                "context": kind,
                "with": sentence + question,
                "without": instead + question,
                "word": word,
            }
            for kind, (sentence, instead, word) in said.items()
        ]
    frame = pd.DataFrame(rows)
    ids = [compiled.tokenizer(f" {word}")["input_ids"][0] for word in frame["word"]]
    for side in ("with", "without"):
        logits = last_logits(compiled, frame[side].tolist())
        frame[f"logit {side}"] = [float(row[token]) for row, token in zip(logits, ids, strict=True)]
        frame[f"log probability {side}"] = [
            float(row.log_softmax(-1)[token]) for row, token in zip(logits, ids, strict=True)
        ]
        frame[f"place {side}"] = [int((row > row[token]).sum()) for row, token in zip(logits, ids, strict=True)]
    frame.drop(columns=["with", "without"]).to_csv(HERE / "rises.csv", index=False, float_format="%.5g")


@torch.no_grad()
def last_logits(compiled: CompiledModel, texts: Sequence[str]) -> list[Tensor]:
    """The model's logits after each text, equal texts and lengths run together."""
    encoded = {text: tuple(compiled.tokenizer(text)["input_ids"]) for text in texts}
    by_length: dict[int, list[str]] = {}
    for text, ids in encoded.items():
        by_length.setdefault(len(ids), []).append(text)
    found: dict[str, Tensor] = {}
    for same in by_length.values():
        for first in range(0, len(same), 16):
            some = same[first : first + 16]
            logits = compiled.model(torch.tensor([encoded[text] for text in some]), logits_to_keep=1).logits[:, -1]
            found |= dict(zip(some, logits, strict=True))
    return [found[text] for text in texts]


# ------------------------------------------------------------- the heads


def heads(compiled: CompiledModel) -> None:
    """Search heads to cut, and measure the cuts on countries that the search has not seen."""
    rng = np.random.default_rng(0)
    prompts = by_subject(compiled, rng)
    names = [
        name
        for name, kind in zip(compiled.universe.writers, compiled.universe.writer_kinds, strict=True)
        if kind == "head"
    ]
    cuts: dict[str, list[str]] = {}
    about: dict[str, object] = {}
    for keep in KEEP:
        began = time.process_time()
        settings = SuppressionSettings(keep=keep, steps=STEPS)
        found = find_suppression(compiled, prompts["train"], prompts["validation"], settings, tick=told)
        cuts[f"keep {keep:g}"] = list(found.heads)
        about[f"keep {keep:g}"] = {
            "settings": asdict(settings), "heads": list(found.heads), "loss": found.loss,
            "cpu_seconds": round(time.process_time() - began),
        }  # fmt: skip
        print(f"keep {keep:g}: {len(found.heads)} heads, {' '.join(found.heads)}", flush=True)
        (HERE / "heads.json").write_text(json.dumps(about, indent=2) + "\n")
    for keep in KEEP:
        many = len(cuts[f"keep {keep:g}"])
        random = {f"random {draw}, {many}": rng.choice(names, many, replace=False).tolist() for draw in range(N_RANDOM)}
        cuts |= random if many else {}
    rows = [{"cut": "nothing, no sentence", "heads": 0, **measured(compiled, [], prompts["test"], asked_alone=True)}]
    for name, cut in {"nothing": [], **cuts}.items():
        rows.append({"cut": name, "heads": len(cut), **measured(compiled, cut, prompts["test"])})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "heads.csv", index=False, float_format="%.5g")


def by_subject(compiled: CompiledModel, rng: np.random.Generator) -> dict[str, EncodedPairs]:
    """Prompts of the task `entrainment`, no country in two splits, neither asked for nor said."""
    usable = sorted({str(group) for group in load_task("entrainment", compiled.tokenizer).split("train").groups})
    rng.shuffle(usable)
    found, first = {}, 0
    for split, (many, n_prompts) in SUBJECTS.items():
        pairs = encode_pairs(sentences(usable[first : first + many]), compiled.tokenizer, align="drop")
        first += many
        found[split] = pairs.subset(rng.choice(len(pairs), min(n_prompts, len(pairs)), replace=False))
    return found


def sentences(countries: Sequence[str]) -> Iterator[PromptPair]:
    """Every question after a false sentence, which gives the country the capital of another of these."""
    for said, asked in SENTENCES:
        for country in countries:
            for other in countries:
                third = next(one for one in countries if one not in (country, other))
                if other != country:
                    question = asked.format(country)
                    yield PromptPair(
                        clean=said.format(country, CAPITALS[other]) + question,
                        corrupted=said.format(country, CAPITALS[third]) + question,
                        answer=f" {CAPITALS[country]}", wrong_answer=f" {CAPITALS[other]}", group=country,
                    )  # fmt: skip


def measured(
    compiled: CompiledModel, cut: Sequence[str], pairs: EncodedPairs, *, asked_alone: bool = False
) -> dict[str, float]:
    """Means over prompts: logits of the right and the said capital, and what is on top."""
    changed = intervene(compiled, Intervention.from_writers(compiled.universe, dict.fromkeys(cut, -1.0)))
    assert pairs.correct_ids is not None and pairs.wrong_ids is not None
    if asked_alone:
        texts = [compiled.tokenizer.decode(ids).split(". ")[1] for ids in pairs.clean_ids]
        logits = torch.stack(last_logits(compiled, texts))
        members = np.arange(len(pairs))
    else:
        parts, members = [], np.concatenate(list(batches(pairs)))
        for some in batches(pairs):
            batch = pairs.batch(some)
            parts.append(changed.logits(batch.clean)[first_asked(batch)])
        logits = torch.cat(parts)
    right = torch.tensor([int(pairs.correct_ids[index][0]) for index in members])
    said = torch.tensor([int(pairs.wrong_ids[index][0]) for index in members])
    of_right, of_said = (logits.gather(1, ids[:, None])[:, 0] for ids in (right, said))
    return {
        "right": float(of_right.mean()), "said": float(of_said.mean()),
        "difference": float((of_right - of_said).mean()),
        "said_log_probability": float((of_said - logits.logsumexp(-1)).mean()),
        "place_of_said": float((logits > of_said[:, None]).sum(-1).float().mean()),
        "right_wins": float((of_right > of_said).float().mean()),
        "right_on_top": float((logits.argmax(-1) == right).float().mean()),
        "said_on_top": float((logits.argmax(-1) == said).float().mean()),
    }  # fmt: skip


def batches(pairs: EncodedPairs) -> Iterator[np.ndarray]:
    """Prompts of one length, at most 16 at once."""
    for length in sorted(set(pairs.lengths.tolist())):
        members = np.flatnonzero(pairs.lengths == length)
        yield from (members[first : first + 16] for first in range(0, len(members), 16))


# ------------------------------------------------------------- other tasks


def others(compiled: CompiledModel) -> None:
    """Measure the cuts on tasks that they were not searched for."""
    found: Mapping[str, Mapping[str, list[str]]] = json.loads((HERE / "heads.json").read_text())
    cuts = {"nothing": [], **{name: about["heads"] for name, about in found.items() if about["heads"]}}
    rows = []
    for name in ("ioi", "capitals", "capitals:in-context", "subject-verb-agreement"):
        pairs = load_task(name, compiled.tokenizer).split("test")
        pairs = pairs.subset(range(min(N_OTHERS, len(pairs))))
        rows += [{"task": name, "cut": label, **measured(compiled, cut, pairs)} for label, cut in cuts.items()]
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "others.csv", index=False, float_format="%.5g")


def told(done: int, total: int) -> None:
    """Say how far it is."""
    if done % 10 == 0:
        print(time.strftime("%H:%M:%S"), done, "of", total, flush=True)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["rises", "heads", "others"]
    compiled = compile_model(load_model("smollm2-135m"), verify=False)
    for part, make in (("rises", rises), ("heads", heads), ("others", others)):
        if part in asked:
            make(compiled)
