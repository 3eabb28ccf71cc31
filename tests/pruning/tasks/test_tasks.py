"""Loading tasks: registration, sizes, splits, seeds, notes and provenance, for every built-in task."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.tracr import program_names
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.pairs import PromptPair
from pruning.tasks import describe_tasks, get_task, load_task, registry, task_names
from pruning.tasks.agreement import OPENINGS, PEOPLE, PREPOSITIONS, THINGS
from pruning.tasks.antonyms import ANTONYMS
from pruning.tasks.capitals import CAPITALS
from pruning.tasks.gendered_pronoun import NOUNS as ROLES
from pruning.tasks.greater_than import NOUNS as EVENTS
from pruning.tasks.ioi import OBJECTS, PLACES, TEMPLATES
from pruning.tasks.names import FEMALE, MALE, NAMES
from pruning.tasks.registry import register_task, unregister_task
from tests.pruning.prompts.tiny_tokenizers import piece_tokenizer

SIZES = {"train": 20, "validation": 10, "test": 30}
OPTIONS = {
    "ioi": {"counterfactual": "fresh"}, "ioi-t1": {"counterfactual": "fresh"}, "entrainment": {"context": "related"},
}  # fmt: skip
TEXT_TASKS = [
    "antonyms", "antonyms:in-context", "antonyms:instruction", "boolean-expressions",
    "boolean-expressions:in-context", "boolean-expressions:instruction", "capital-country",
    "capital-country:in-context", "capital-country:instruction", "capitals", "capitals:in-context",
    "capitals:instruction", "docstring", "entrainment", "gendered-pronoun", "greater-than", "hypernymy", "induction",
    "ioi", "ioi-t1", "languages", "languages:in-context", "languages:instruction", "negative-polarity",
    "nonce-plurals", "reflexive-agreement", "subject-verb-agreement",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    """A small byte-level BPE that knows most, not all, of the tasks' words as single tokens."""
    words = [*PLACES, *OBJECTS, *ROLES, *EVENTS, *ANTONYMS, *ANTONYMS.values(), *PREPOSITIONS, *NAMES[::2]]
    nouns = [form for noun in (*THINGS, *PEOPLE) for form in noun.split("/")]
    often = [*TEMPLATES, *(" ".join(opening) for opening in OPENINGS), "True False and or not he she is"]
    return piece_tokenizer([*(f" {word}" for word in [*words, *nouns, *CAPITALS] * 3), *often], vocabulary=2200)


@pytest.fixture
def registered():
    """Names registered within a test, forgotten after it."""
    names: list[str] = []
    yield names
    for name in names:
        unregister_task(name)


def test_all_promised_tasks_are_there():
    assert task_names() == sorted([*TEXT_TASKS, "jsonl:PATH", *(f"tracr-{name}" for name in program_names())])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEXT_TASKS if not name.endswith(":instruction")])
def test_every_text_task_keeps_its_promises(tokenizer, name):
    # Python's own random state is moved by beartype, which checks the types in these tests.
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    data = load_task(name, tokenizer, sizes=SIZES, seed=3)
    assert {split: len(pairs) for split, pairs in data.splits.items()} == SIZES
    texts = [text for pairs in data.splits.values() for text in pairs.texts]
    assert len(set(texts)) == len(texts) == 60
    for pairs in data.splits.values():
        assert pairs.wrong_ids is not None
        assert pairs.correct_ids is not None
        for i in range(len(pairs)):
            assert len(pairs.clean_ids[i]) == len(pairs.corrupted_ids[i])
            assert not np.array_equal(pairs.clean_ids[i], pairs.corrupted_ids[i])
            assert not set(pairs.wrong_ids[i]) & set(pairs.correct_ids[i])
            assert pairs.answer_ids[i][0] in pairs.correct_ids[i]
            assert len(pairs.wrong_ids[i]) > 0
    again = load_task(name, tokenizer, sizes=SIZES, seed=3)
    assert again.data_hash == data.data_hash
    assert again.splits["train"].texts == data.splits["train"].texts
    assert load_task(name, tokenizer, sizes=SIZES, seed=4).data_hash != data.data_hash
    assert data.objective == "kl"
    options = OPTIONS.get(name, {})
    assert data.provenance == {
        "task": name, "seed": 3, "sizes": SIZES, "options": options,
        "chat_template": False, "bos": "auto", "bos_ids": [],
    }  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ioi", "greater-than", "boolean-expressions"])
def test_more_training_prompts_leave_the_other_splits_as_they_are(tokenizer, name):
    small = load_task(name, tokenizer, sizes=SIZES)
    large = load_task(name, tokenizer, sizes={**SIZES, "train": 60})
    for split in ("validation", "test"):
        assert small.splits[split].data_hash == large.splits[split].data_hash
    assert large.splits["train"].texts[:20] == small.splits["train"].texts


def test_ioi_has_three_fresh_names_and_the_right_and_wrong_one(tokenizer):
    data = load_task("ioi", tokenizer, sizes=SIZES)
    orders = set()
    for pairs in data.splits.values():
        for i, (clean, corrupted) in enumerate(zip(pairs.texts, pairs.corrupted_texts, strict=True)):
            names = [word.strip(",.") for word in clean.split() if word.strip(",.") in NAMES]
            fresh = [word.strip(",.") for word in corrupted.split() if word.strip(",.") in NAMES]
            assert len(names) == len(fresh) == 3
            assert len(set(fresh)) == 3
            assert not set(fresh) & set(names)
            subject, (other,) = names[2], set(names) - {names[2]}
            order = "ABBA" if names[1] == subject else "BABA"
            assert pairs.groups[i].startswith(order)
            orders.add(order)
            assert tokenizer.decode(pairs.answer_ids[i]) == f" {other}"
            assert tokenizer.decode(pairs.wrong_ids[i]) == f" {subject}"
            assert [w for w in clean.split() if w.strip(",.") not in names] == [
                w for w in corrupted.split() if w.strip(",.") not in fresh
            ]
    assert orders == {"ABBA", "BABA"}
    assert len(TEMPLATES) == 15
    assert any(note.startswith("names: kept ") and "dropped" in note for note in data.notes)


def test_ioi_with_the_two_names_exchanged(tokenizer):
    """The prompts differ in who is named again, and the other answer is the wrong one."""
    data = load_task("ioi", tokenizer, sizes=SIZES, options={"counterfactual": "exchanged"})
    pairs = data.splits["test"]
    for i in range(len(pairs)):
        ours, theirs = pairs.texts[i].split(), pairs.corrupted_texts[i].split()
        changed = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        assert len(changed) == 1
        assert theirs[changed[0]].strip(",.") == tokenizer.decode(pairs.answer_ids[i]).strip()
        assert ours[changed[0]].strip(",.") == tokenizer.decode(pairs.wrong_ids[i]).strip()
    with pytest.raises(UnknownNameError, match="fresh"):
        load_task("ioi", tokenizer, sizes=SIZES, options={"counterfactual": "frish"})


def test_ioi_t1_has_one_sentence_in_one_order(tokenizer):
    data = load_task("ioi-t1", tokenizer)
    assert {len(pairs) for pairs in data.splits.values()} == {50}
    assert {group for pairs in data.splits.values() for group in pairs.groups} == {"ABBA-1"}


def test_gendered_pronoun_swaps_the_gender(tokenizer):
    pairs = load_task("gendered-pronoun", tokenizer, sizes=SIZES).splits["test"]
    for i, (clean, corrupted) in enumerate(zip(pairs.texts, pairs.corrupted_texts, strict=True)):
        old, new = ({word for word in text.replace(",", "").split() if word in NAMES} for text in (clean, corrupted))
        assert tokenizer.decode(pairs.answer_ids[i]) == (" he" if old <= set(MALE) else " she")
        assert (new <= set(FEMALE)) == (old <= set(MALE))


def test_agreement_changes_only_the_subjects_number(tokenizer):
    pairs = load_task("subject-verb-agreement", tokenizer, sizes=SIZES).splits["test"]
    plural = {many for noun in (*THINGS, *PEOPLE) for many in noun.split("/")[1:]}
    nouns = {form for noun in (*THINGS, *PEOPLE) for form in noun.split("/")}
    assert set(pairs.groups) == {"attractor agrees", "attractor differs"}
    for i, (clean, corrupted) in enumerate(zip(pairs.texts, pairs.corrupted_texts, strict=True)):
        changed = [(a, b) for a, b in zip(clean.split(), corrupted.split(), strict=True) if a != b]
        ((was, becomes),) = changed
        subject, attractor = (word for word in clean.split() if word in nouns)
        assert subject == was
        assert (becomes in plural) != (was in plural)
        assert (tokenizer.decode(pairs.answer_ids[i]) in (" are", " were", " have")) == (was in plural)
        differs = (attractor in plural) != (subject in plural)
        assert pairs.groups[i] == ("attractor differs" if differs else "attractor agrees")


def test_too_large_a_size_says_how_many_there_are(registered):
    registered.append("three")

    @register_task("three", description="Three prompts, one of them twice.")
    def three(context):
        for word in ("one", "two", "two", "three"):
            yield PromptPair(clean=f"a {word}", corrupted="a b", answer=" c")

    words = piece_tokenizer(["a one two three b c"])
    with pytest.raises(ConfigurationError, match="'three' has 3 distinct prompts .*, but 4 were asked for .*fewer"):
        load_task("three", words, sizes={"train": 2, "validation": 1, "test": 1})
    data = load_task("three", words, sizes={"train": 2, "validation": 0, "test": 1})
    assert data.splits["test"].texts == ("a one",)
    assert data.splits["train"].texts == ("a two", "a three")
    assert len(data.splits["validation"]) == 0


def test_pairs_that_do_not_fit_are_dropped_and_noted(registered):
    registered.append("uneven")

    @register_task("uneven", description="Every other pair is uneven.", sizes={"train": 2, "validation": 0, "test": 1})
    def uneven(context):
        for number in range(6):
            yield PromptPair(clean=f"{number} a", corrupted="7 a" + " a" * (number % 2), answer=" b")

    data = load_task("uneven", piece_tokenizer(["a b 0 1 2 3 4 5 6 7"]))
    assert data.splits["train"].texts == ("2 a", "4 a")
    assert data.notes[0].startswith("3 generated pairs did not fit this tokenizer; first: ")
    assert data.notes[0].endswith("the clean side has 3 tokens and the corrupted side 5")  # they are left out already


def test_a_pair_with_a_split_goes_there(registered):
    registered.append("sorted")

    @register_task("sorted", description="Splits given.", sizes={"train": 1, "validation": 1, "test": 1})
    def given(context):
        for split in ("train", "test", "train", "validation"):
            yield PromptPair(clean=f"{split} {context.rng.integers(10**6)}", corrupted="x 1", answer=" b", split=split)

    digits = piece_tokenizer(["x train test validation"])
    with pytest.raises(ConfigurationError, match="fewer"):
        load_task("sorted", digits, sizes={"validation": 2})


def test_bad_arguments_name_the_nearest_valid_ones(tokenizer):
    with pytest.raises(UnknownNameError, match=r"unknown task 'iio'; did you mean .*'ioi'.*jsonl:PATH"):
        load_task("iio", tokenizer)
    with pytest.raises(UnknownNameError, match=r"Prompts of your own: jsonl:my/prompts\.jsonl\."):
        load_task("my/prompts.jsonl", tokenizer)
    with pytest.raises(UnknownNameError, match="unknown split 'tests'; did you mean 'test'"):
        load_task("ioi", tokenizer, sizes={"tests": 3})
    with pytest.raises(ConfigurationError, match="must be 0 or more, got -1"):
        load_task("ioi", tokenizer, sizes={"test": -1})
    with pytest.raises(ConfigurationError, match="seed must be 0 or more"):
        load_task("ioi", tokenizer, seed=-1)
    with pytest.raises(UnknownNameError, match="unknown option of task 'ioi' 'max_length'"):
        load_task("ioi", tokenizer, options={"max_length": 3})
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        load_task("ioi-t1", tokenizer).split("trian")


def test_a_taken_name_is_refused_and_a_redefinition_is_not(registered):
    def make():
        @register_task("mine", description="Mine.")
        def mine(context):
            return iter(())

    make()
    make()
    registered.append("mine")
    with pytest.raises(ConfigurationError, match="'mine' is already registered"):
        register_task("mine", description="Other.")(test_all_promised_tasks_are_there)


def test_a_task_may_make_token_ids_itself(registered, tokenizer):
    registered.append("ids")
    ids = (np.array([1, 2]),)
    data = EncodedPairs(
        clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([1]),), answer_values=(np.array([0.5]),)
    )

    @register_task("ids", description="Ids.", objective="mse", sizes=None)
    def own(context):
        return {"train": data}

    loaded = load_task("ids", tokenizer)
    assert loaded.splits["train"] is data
    assert loaded.objective == "mse"


@pytest.mark.slow
def test_another_packages_task_is_found_by_entry_point(monkeypatch, tmp_path, registered, tokenizer):
    (tmp_path / "plugin_of_a_test.py").write_text(
        "from pruning.prompts.pairs import PromptPair\n"
        "from pruning.tasks import register_task\n"
        "@register_task('plugged', description='d', sizes={'train': 1, 'validation': 0, 'test': 0})\n"
        "def plugged(context):\n"
        "    yield PromptPair(clean='a', corrupted='b', answer=' c')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint(name=name, value=value, group=registry.ENTRY_POINT_GROUP)
        for name, value in (("plugged", "plugin_of_a_test"), ("broken", "no_such_module"), ("idle", "json"))
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert {"plugged", "broken", "idle"} <= set(task_names())
    assert load_task("plugged", tokenizer).splits["train"].texts == ("a",)
    registered.append("plugged")
    with pytest.raises(ConfigurationError, match="'broken' is announced by 'no_such_module', which cannot be imp"):
        get_task("broken")
    with pytest.raises(ConfigurationError, match="registers no such task; decorate"):
        get_task("idle")
    described = {task.name: task for task in describe_tasks()}
    assert described["broken"].description.startswith("Cannot be loaded: ")


@pytest.mark.slow
@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_every_task_is_described_with_an_example(tokenizer, with_tokenizer):
    described = describe_tasks(tokenizer if with_tokenizer else None)
    assert [task.name for task in described] == task_names()
    for task in described:
        assert task.description.endswith((".", ")."))
        assert task.example
        assert "(none" not in task.example
        if task.name in TEXT_TASKS:
            assert "<predict>" in task.example
            assert "\ncounterfactual: " in task.example
