"""Answers that a mask stands for: where they are asked, what is read around them, and which model may be asked so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM, GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM

from circuitgraph import LoadedModel, compile_model, load_model
from circuitgraph.cli import main
from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning import load_task
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.encoding import encode_pairs
from pruning.prompts.pairs import PromptPair, PromptPairs
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

TEXTS = ("Paris Rome Bern is the capital of France Italy indeed .",)
PAIR = PromptPair(
    clean="Paris is the capital of", answer=" France", clean_after=" indeed .",
    corrupted="Rome is the capital of", corrupted_after=" indeed .", wrong_answer=" Italy",
)  # fmt: skip


def tokenizer():
    return word_tokenizer(TEXTS, masks=True)


def pieces(made, ids):
    return made.convert_ids_to_tokens([int(token) for token in ids])


def test_a_mask_stands_where_the_answer_is_asked():
    made = tokenizer()
    pairs = encode_pairs([PAIR], made)
    before, after = " is| the| capital| of".split("|"), ["[MASK]", " indeed", " .", "[SEP]"]
    assert pieces(made, pairs.clean_ids[0]) == ["[CLS]", "Paris", *before, *after]
    assert pieces(made, pairs.corrupted_ids[0]) == ["[CLS]", "<unk>", *before, *after]
    assert pairs.predict_positions[0].tolist() == [6]
    assert pairs.answer_ids is not None and pairs.wrong_ids is not None
    assert pieces(made, pairs.answer_ids[0]) == [" France"]
    assert pieces(made, pairs.wrong_ids[0]) == [" Italy"]
    assert pairs.texts == ("Paris is the capital of … indeed .",)


def test_an_answer_of_several_tokens_has_a_mask_each_and_a_prompt_may_end_with_it():
    made = tokenizer()
    pair = PromptPair(clean="Paris is the capital", corrupted="Paris is the Bern", answer=" of France")
    pairs = encode_pairs([pair], made)
    read = ["[CLS]", "Paris", " is", " the", " capital", "[MASK]", "[MASK]", "[SEP]"]
    assert pieces(made, pairs.clean_ids[0]) == read
    assert pairs.predict_positions[0].tolist() == [5, 6] and pairs.answer_ids is not None
    assert pieces(made, pairs.answer_ids[0]) == [" of", " France"]


def test_sides_may_differ_after_the_answer_and_have_to_be_as_long():
    made = tokenizer()
    pair = PromptPair(clean="Paris", corrupted="Paris", answer=" is", clean_after=" Bern", corrupted_after=" Rome")
    pairs = encode_pairs([pair], made)
    assert pieces(made, pairs.clean_ids[0][-2:]) == [" Bern", "[SEP]"]
    assert pieces(made, pairs.corrupted_ids[0][-2:]) == [" Rome", "[SEP]"]
    assert pairs.differs.all()
    longer = PromptPair(clean="Paris", corrupted="Paris", answer=" is", clean_after=" Bern .", corrupted_after=" Bern")
    with pytest.raises(
        PromptFormatError, match="after the answer the clean side has 3 tokens and the corrupted side 2"
    ):
        encode_pairs([longer], made)


def test_sides_that_are_swapped_have_as_many_masks_as_the_other_answer_has_tokens():
    made = tokenizer()
    pair = PromptPair(
        clean="Paris", corrupted="France", answer=" is", corrupted_answer=" of the", clean_after=" Bern",
        corrupted_after=" Rome",
    )  # fmt: skip
    swapped = encode_pairs([pair], made).swapped()
    assert pieces(made, swapped.clean_ids[0]) == ["[CLS]", "<unk>", "[MASK]", "[MASK]", " Rome", "[SEP]"]
    assert pieces(made, swapped.corrupted_ids[0]) == ["[CLS]", "Paris", "[MASK]", "[MASK]", " Bern", "[SEP]"]
    assert swapped.predict_positions[0].tolist() == [2, 3]
    as_text = encode_pairs([pair.swapped()], made)
    for name in ("clean_ids", "corrupted_ids", "predict_positions", "answer_ids"):
        assert getattr(swapped, name)[0].tolist() == getattr(as_text, name)[0].tolist(), name
    assert swapped.prompt_lengths == as_text.prompt_lengths
    assert swapped.swapped().clean_ids[0].tolist() == encode_pairs([pair], made).clean_ids[0].tolist()


def test_a_decoder_reads_nothing_after_the_answer():
    with pytest.raises(PromptFormatError, match="text after </predict>: 'indeed .'"):
        encode_pairs([PAIR], word_tokenizer(TEXTS))


def test_a_chat_template_is_refused():
    made = tokenizer()
    made.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ConfigurationError, match="a model that fills in masks takes texts as they are"):
        encode_pairs([PAIR], made, chat_template=True)


def test_prompts_that_differ_after_the_answer_alone_are_two(tmp_path):
    sides = [("train", " Bern"), ("test", " Rome"), ("validation", " indeed")]
    one = PromptPair(clean="Paris", corrupted="France", answer=" is")
    pairs = PromptPairs(
        tuple(replace(one, clean_after=after, corrupted_after=after, split=split) for split, after in sides)
    )
    file = tmp_path / "pairs.jsonl"
    pairs.to_jsonl(file)
    assert PromptPairs.from_jsonl(file) == pairs
    assert json.loads(file.read_text().splitlines()[0])["corrupted"] == "France<predict> is</predict> Bern"
    task = load_task(f"jsonl:{file}", tokenizer())
    assert {split: len(data) for split, data in task.splits.items()} == {"train": 1, "validation": 1, "test": 1}
    assert task.provenance["answers"] == "at masks"


def encoder_model(made):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(made), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=2, bos_token_id=1, eos_token_id=4, cls_token_id=3, sep_token_id=4, local_attention=4,
    )  # fmt: skip
    model = ModernBertForMaskedLM(config).eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    return model


def test_each_model_is_asked_where_it_answers():
    made, plain = tokenizer(), word_tokenizer(TEXTS)
    encoder = compile_model(LoadedModel(model=encoder_model(made), tokenizer=made, name="encoder"))
    FrozenRuns(encoder, encode_pairs([PAIR], made), ablation="zero")
    said_next = encode_pairs([PromptPair(clean="Paris is", corrupted="Rome is", answer=" the")], plain)
    with pytest.raises(ConfigurationError, match="not asked at a mask, but this model says what masks stand for"):
        FrozenRuns(encoder, said_next, ablation="zero")
    config = GPT2Config(vocab_size=len(made), n_embd=8, n_layer=1, n_head=1)
    decoder = compile_model(LoadedModel(model=GPT2LMHeadModel(config).eval(), tokenizer=made, name="decoder"))
    with pytest.raises(ConfigurationError, match="asked at a mask, but this model says the next token"):
        FrozenRuns(decoder, encode_pairs([PAIR], made), ablation="zero")


@pytest.mark.slow
def test_from_a_folder_to_a_circuit_that_runs(tmp_path, capsys):
    """Logits at masks are those of `transformers`; a circuit is found, and run on a prompt with a mask."""
    made = tokenizer()
    folder, file = tmp_path / "model", tmp_path / "pairs.jsonl"
    encoder_model(made).save_pretrained(folder)
    made.save_pretrained(folder)
    cities = {"Paris": " France", " Rome": " Italy"}
    lines = [
        PromptPair(clean=f"{city} is the capital of", corrupted=f"{other} is the capital of", answer=answer,
                   clean_after=f" {end} .", corrupted_after=f" {end} .", split=split)
        for (city, answer), other in zip(cities.items(), reversed(cities), strict=True)
        for split, end in (("train", "indeed"), ("validation", "Bern"), ("test", "France"))
    ]  # fmt: skip
    PromptPairs(tuple(lines)).to_jsonl(file)
    loaded = load_model(str(folder))
    compiled = compile_model(loaded)
    pairs = load_task(f"jsonl:{file}", loaded.tokenizer).split("train")
    batch = pairs.batch(range(len(pairs))).clean
    with torch.no_grad():
        theirs = AutoModelForMaskedLM.from_pretrained(folder)(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).logits.flatten(0, 1)
        ours = compiled.logits(batch)
    assert set(pieces(made, batch.input_ids.flatten()[batch.predict_index])) == {"[MASK]"}
    torch.testing.assert_close(ours, theirs[batch.predict_index], atol=1e-5, rtol=1e-4)
    out = tmp_path / "run"
    asked = ["--model", str(folder), "--task", f"jsonl:{file}", "--out", str(out)]
    assert main(["discover", *asked, "--method", "eap", "--rule", "top", "--target-sparsity", "0.5"]) == 0
    capsys.readouterr()
    circuit, prompt = str(out / "circuit.json"), "Paris is the capital of [MASK] indeed ."
    assert main(["run", circuit, "--prompt", prompt, "--corrupted", prompt.replace("Paris", "indeed"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["position"] for row in said["positions"]] == [6]
    assert main(["run", circuit, "--prompt", "Paris is", "--corrupted", "Bern is"]) == 2
    assert "write [MASK] where it is to" in capsys.readouterr().err
