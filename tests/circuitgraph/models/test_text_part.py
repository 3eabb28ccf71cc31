"""Decoders inside checkpoints of images and text, against the whole model on prompts without images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)

from circuitgraph import compile_model, load_model
from circuitgraph.architectures import family_of
from circuitgraph.cli import main
from circuitgraph.errors import ModelWarning, UnsupportedModelError
from circuitgraph.models import load_config
from circuitgraph.models.text_part import _DECODERS
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEADS = {**SIZES, "head_dim": 6}
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 1]}
OF_QWEN = {"image_token_id": 63, "video_token_id": 62, "vision_start_token_id": 60, "vision_end_token_id": 61}

WHOLE: dict[str, tuple[str, Callable[[], Any]]] = {
    "llava": (
        "llama",
        lambda: LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**HEADS), image_token_index=63
        ),
    ),
    "llava_next": (
        "mistral",
        lambda: LlavaNextConfig(
            vision_config=CLIPVisionConfig(**VISION), text_config=MistralConfig(**HEADS), image_token_index=63
        ),
    ),
    "gemma3": (
        "gemma3_text",
        lambda: Gemma3Config(
            text_config=Gemma3TextConfig(**HEADS, sliding_window=4),
            vision_config=SiglipVisionConfig(**VISION),
            image_token_index=63,
            boi_token_index=61,
            eoi_token_index=62,
            mm_tokens_per_image=4,
        ),  # fmt: skip
    ),
    "mistral3": (
        "mistral",
        lambda: Mistral3Config(
            text_config=MistralConfig(**HEADS), vision_config=PixtralVisionConfig(**VISION), image_token_index=63
        ),
    ),
    "idefics3": (
        "llama",
        lambda: Idefics3Config(
            text_config=LlamaConfig(**HEADS), vision_config=dict(VISION), image_token_id=63, scale_factor=1
        ),
    ),
    "smolvlm": (
        "llama",
        lambda: SmolVLMConfig(
            text_config=LlamaConfig(**HEADS), vision_config=dict(VISION), image_token_id=63, scale_factor=1
        ),
    ),
    "internvl": (
        "qwen2",
        lambda: InternVLConfig(
            text_config=Qwen2Config(**SIZES),
            image_token_id=63,
            vision_config={**VISION, "image_size": [16, 16], "patch_size": [8, 8]},
        ),  # fmt: skip
    ),
    "qwen2_vl": (
        "qwen2",
        lambda: Qwen2VLConfig(
            text_config={**SIZES, "rope_parameters": MROPE},
            **OF_QWEN,
            vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "patch_size": 8},
        ),  # fmt: skip
    ),
    "qwen2_5_vl": (
        "qwen2",
        lambda: Qwen2_5_VLConfig(
            text_config={**SIZES, "rope_parameters": MROPE},
            **OF_QWEN,
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "out_hidden_size": 24,
                "num_heads": 2,
                "patch_size": 8,
                "fullatt_block_indexes": [0],
            },
        ),  # fmt: skip
    ),
}


def saved(kind: str, folder: Path, *, tied: bool = False) -> torch.nn.Module:
    """A tiny random model of images and text, with a tokenizer beside it."""
    config = WHOLE[kind][1]()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(config).eval()
        for weights in whole.parameters():
            torch.nn.init.normal_(weights, std=0.2)
    whole.tie_weights()
    whole.save_pretrained(folder)
    word_tokenizer(["a b c d"]).save_pretrained(folder)
    return whole


@pytest.mark.parametrize("kind", WHOLE)
def test_the_text_part_says_what_the_whole_model_says(kind: str, tmp_path: Path) -> None:
    whole, family = saved(kind, tmp_path, tied=kind == "qwen2_vl"), WHOLE[kind][0]
    with pytest.warns(
        ModelWarning, match=rf"of images and text \({kind}\): its text part \({family}\) is loaded alone"
    ):
        loaded = load_model(str(tmp_path))
    compiled = compile_model(loaded, verify=True)
    assert compiled.universe.family == family and load_config(str(tmp_path)).model_type == family
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, whole(input_ids=ids).logits)
    of_text, of_all = (sum(w.numel() for w in model.parameters()) for model in (loaded.model, whole))
    assert of_text < of_all  # nothing of images is held


def test_all_kinds_are_tried_and_told() -> None:
    assert set(WHOLE) == set(_DECODERS)
    for kind in WHOLE:
        with pytest.raises(UnsupportedModelError, match="it is of images and text; load_model loads its text part"):
            family_of(kind)


def test_what_does_not_stand_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config={"model_type": "mamba"})
    config.save_pretrained(tmp_path / "of-mamba")
    with pytest.raises(UnsupportedModelError, match="llava: its text part is of model type 'mamba', which is not"):
        load_config(str(tmp_path / "of-mamba"))
    config = Gemma3Config(text_config=Gemma3TextConfig(**HEADS, use_bidirectional_attention=True))
    config.save_pretrained(tmp_path / "both-ways")
    assert main(["models", "--check", str(tmp_path / "both-ways")]) == 2
    assert "use_bidirectional_attention=True is not supported" in capsys.readouterr().err
    path = tmp_path / "both-ways" / "config.json"
    values = json.loads(path.read_text()) | {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}
    }
    values["text_config"]["use_bidirectional_attention"] = False
    path.write_text(json.dumps(values))
    with pytest.raises(UnsupportedModelError, match=r"weights are quantised \(bitsandbytes\)"):
        load_config(str(tmp_path / "both-ways"))
    (tmp_path / "pali").mkdir()
    (tmp_path / "pali" / "config.json").write_text('{"model_type": "paligemma"}')
    assert main(["models", "--check", str(tmp_path / "pali")]) == 2
    assert "it reads prompts both ways, up to the answer" in " ".join(capsys.readouterr().err.split())
