"""Train the small GPT-NeoX that does induction, and save it: `python -m circuitgraph.models.induction.train FOLDER`.

Each sequence begins with BOS; then come 8 to 24 different letters in random order, then the same letters in the same
order again. How many there are changes from sequence to sequence, so that counting back does not help: the model has
to find the letter's first place and say what came after it. The loss is that of the second time. (With at most 14
letters, and rotary embeddings of base 10,000 on a quarter of each head, a model learnt the same without heads that look
at one place: all places at once, weighted by how far they are, were enough to tell the order.)
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import ascii_letters

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

LETTERS = tuple(ascii_letters)
BOS, PAD = "<bos>", "<pad>"
WORDS = (PAD, BOS, *LETTERS)
_SHORTEST, _LONGEST = 8, 24


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a letter; spaces stand between them and are none."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=PAD))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, WORDS.index(BOS))])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, pad_token=PAD)


def config() -> GPTNeoXConfig:
    """Sizes of the model; a share of each head is turned by its position, blocks are parallel, as in Pythia."""
    return GPTNeoXConfig(
        vocab_size=len(WORDS), hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences and which of their tokens are asked for.

    Args:
        n: How many.
        generator: Where they come from.

    Returns:
        Token ids `[n seq]`, padded on the right, and booleans `[n seq]`: the second time, but for its first letter.
    """
    letters = torch.rand(n, len(LETTERS), generator=generator).argsort(-1) + 2
    sizes = torch.randint(_SHORTEST, _LONGEST + 1, (n, 1), generator=generator)
    places = torch.arange(2 * _LONGEST)
    ids = letters.gather(1, places % sizes).where(places < 2 * sizes, 0)
    ids = torch.cat([torch.ones(n, 1, dtype=torch.int64), ids], 1)
    asked = torch.cat([torch.zeros(n, 1, dtype=torch.bool), (places > sizes) & (places < 2 * sizes)], 1)
    return ids, asked


def train(*, steps: int = 1200, seed: int = 0) -> tuple[GPTNeoXForCausalLM, float]:
    """Train the model.

    Args:
        steps: Of 32 sequences each.
        seed: Of the weights and the sequences.

    Returns:
        The model, and the share of 1,000 new sequences' asked letters that it says.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = GPTNeoXForCausalLM(config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids, asked = draw(32, generator)
        logits = model(ids).logits[:, :-1]
        loss = cross_entropy(logits[asked[:, 1:]], ids[:, 1:][asked[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step} of {steps}: {loss.item():.3f} nats", flush=True)
    model = model.eval()
    ids, asked = draw(1000, generator)
    with torch.no_grad():
        said = model(ids).logits[:, :-1].argmax(-1)
    right = said[asked[:, 1:]] == ids[:, 1:][asked[:, 1:]]
    return model, float(right.float().mean())


def main(folder: str) -> None:
    """Train and save.

    Args:
        folder: Where to.
    """
    model, accuracy = train()
    model.save_pretrained(Path(folder))
    tokenizer().save_pretrained(Path(folder))
    print(f"{accuracy:.4f} of the asked letters of 1,000 new sequences are right; saved in {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
