"""What is captured: against the untouched model, and against programs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph import compile_model, load_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.tracr import ground_truth_edges
from pruning import capture, load_task

# Programs whose outputs are symbols, and whose answer one writer says.
PROGRAMS = (
    "count", "count-less-freq", "detect-pattern", "dyck-1", "first-token", "hist", "induction", "maximum", "parity",
    "reverse", "sort", "sort-freq", "sort-unique",
)  # fmt: skip
NUMBERS = ("frac-prevs", "xproportion")


@pytest.fixture(scope="module")
def induction():
    loaded = load_model("induction-neox")
    pairs = load_task("induction", loaded.tokenizer, sizes={"train": 1, "validation": 0, "test": 13}).split("test")
    return loaded, compile_model(loaded), pairs


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_last_writer_of_a_program_says_its_answer_and_no_other_does(program: str) -> None:
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    pairs = load_task(f"tracr-{program}", loaded.tokenizer).split("test")
    found = capture(compiled, pairs.subset(range(min(20, len(pairs)))))
    (last,) = {edge.split("->")[0] for edge in ground_truth_edges(program) if edge.endswith("->logits")}
    assert (found.direct["rank"][found.index(last)] == 1).all()
    right = loaded.tokenizer.output_symbols
    assert pairs.answer_ids is not None
    for row, prompt in enumerate(found.asked[:, 0].tolist()):
        at = row - int(np.flatnonzero(found.asked[:, 0] == prompt)[0])
        answer = right[int(pairs.answer_ids[prompt][at])]
        assert found.top_tokens(last, prompt)[at][0][0] == str(answer)
    others = [name for name in found.nodes if name != last]
    assert all((found.direct["rank"][found.index(name)] == 1).mean() < 0.9 for name in others)
    assert np.abs(found.direct["right"].sum(0) - found.logits["right"]).max() < 1e-4


@pytest.mark.parametrize("program", NUMBERS)
def test_of_numbers_the_last_writer_says_the_number(program: str) -> None:
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    pairs = load_task(f"tracr-{program}", loaded.tokenizer).split("test").subset(range(40))
    found = capture(compiled, pairs)
    (last,) = {edge.split("->")[0] for edge in ground_truth_edges(program) if edge.endswith("->logits")}
    right = np.concatenate(pairs.answer_values)
    assert np.abs(found.direct["right"][found.index(last)] - right).max() < 0.05
    assert np.isnan(found.direct["rank"]).all() and found.top_tokens(last, 0)[0] == []


def test_a_heads_direct_effect_by_hooks_on_the_untouched_model(induction) -> None:
    """The last layer's head 2: its slice of the output projection, through the norm with its scale, by hand."""
    loaded, compiled, pairs = induction
    found, model, head, d_head = capture(compiled, pairs, batch_size=4), loaded.model, 2, compiled.shape.d_head
    seen: dict[str, torch.Tensor] = {}
    dense, norm = model.gpt_neox.layers[1].attention.dense, model.gpt_neox.final_layer_norm
    hooks = [
        dense.register_forward_pre_hook(lambda _, given: seen.update(mixed=given[0])),
        norm.register_forward_pre_hook(lambda _, given: seen.update(residual=given[0])),
    ]
    for prompt in range(len(pairs)):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(pairs.clean_ids[prompt])[None]).logits[0, -1]
        here = slice(head * d_head, (head + 1) * d_head)
        said = seen["mixed"][0, -1, here] @ dense.weight.T[here]
        scale = (seen["residual"][0, -1].var(unbiased=False) + norm.eps).rsqrt()
        adds = ((said - said.mean()) * scale * norm.weight) @ model.get_output_embeddings().weight.T
        said, adds = said.detach(), adds.detach()
        right, wrong = int(pairs.answer_ids[prompt][0]), int(pairs.wrong_ids[prompt][0])
        place = found.index("a1.h2")
        assert found.direct["right"][place, prompt] == pytest.approx(float(adds[right]), abs=1e-4)
        assert found.direct["wrong"][place, prompt] == pytest.approx(float(adds[wrong]), abs=1e-4)
        assert found.direct["average"][place, prompt] == pytest.approx(float(adds.mean()), abs=1e-4)
        assert found.direct["rank"][place, prompt] == 1 + int((adds > adds[right]).sum())
        chance = adds.softmax(-1)[right]
        assert found.direct["probability"][place, prompt] == pytest.approx(float(chance), abs=1e-4)
        best = adds.topk(5)
        assert found.top_ids[place, prompt].tolist() == best.indices.tolist()
        assert found.top_direct[place, prompt] == pytest.approx((best.values - adds.mean()).numpy(), abs=1e-4)
        ((first, _), *_), *_ = found.top_tokens("a1.h2", prompt)
        assert first == loaded.tokenizer.decode([int(best.indices[0])])
        assert found.said[place, prompt] == pytest.approx(said.numpy(), abs=1e-4)
        assert found.logits["right"][prompt] == pytest.approx(float(logits[right]), abs=1e-4)
        looked_at = found.patterns[prompt][found.heads.index("a1.h2"), -1, 1:].argmax() + 1
        token = int(pairs.clean_ids[prompt][looked_at])
        assert found.direct["attended"][place, prompt] == pytest.approx(float(adds[token]), abs=1e-4)
    for hook in hooks:
        hook.remove()


def test_all_nodes_add_up_and_some_are_the_same_alone(induction) -> None:
    _, compiled, pairs = induction
    found = capture(compiled, pairs)
    for name in ("right", "wrong", "average", "type"):
        assert np.abs(found.direct[name].sum(0) - found.logits[name]).max() < 1e-4
    some = capture(compiled, pairs, ["m1", "a1.h2"], batch_size=3)
    assert some.nodes == ("a1.h2", "m1") and some.heads == ("a1.h2",)
    for name, values in some.direct.items():
        rows = [found.index(node) for node in some.nodes]
        assert values == pytest.approx(found.direct[name][rows], nan_ok=True, abs=1e-5)
    place = found.heads.index("a1.h2")
    assert all(np.allclose(a[0], b[place], atol=1e-6) for a, b in zip(some.patterns, found.patterns, strict=True))


def test_refused(induction) -> None:
    _, compiled, pairs = induction
    with pytest.raises(UnknownNameError, match=r"a1\.h2"):
        capture(compiled, pairs, ["a1.h22"])
    with pytest.raises(ConfigurationError, match="no prompts"):
        capture(compiled, pairs.subset([]))
    with pytest.raises(ConfigurationError, match="batch_size must be a whole number of at least 1; got 0"):
        capture(compiled, pairs, batch_size=0)
    with pytest.raises(UnknownNameError, match="captured node"):
        capture(compiled, pairs, ["m1"]).index("m0")
