"""Text towers and tokenizers from a pipeline's folders, loaded strictly and without running code."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wuerstchen import CheckpointError, Wuerstchen
from wuerstchen.towers import load_text_tower, load_tokenizer
from wuerstchen.training.mini import tokenizer

from .checkpoints.checkpoint_files import FP16, FP32, message, prior_file, tower_folder
from .conftest import WORDS


def text_tower(folder: Path) -> Any:
    """Write a pipeline folder with a tiny text tower and tokenizer; return the tower."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from wuerstchen.training.mini import tokenizer_of

    words = {
        "a</w>": 0,
        "cat</w>": 1,
        "c": 2,
        "at</w>": 3,
        "<|startoftext|>": 4,
        "<|endoftext|>": 5,
    }
    tokenizer = tokenizer_of(words, [("c", "at</w>")])
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=6,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=5,
    )
    torch.manual_seed(3)
    tower: Any = CLIPTextModel(config).eval()
    tower.save_pretrained(folder / "text_encoder")
    return tower


@pytest.mark.parametrize("file", ["as saved", "model.safetensors", "pytorch_model.bin"])
def test_text_tower_and_tokenizer_are_loaded(tmp_path: Path, file: str) -> None:
    tower = text_tower(tmp_path)
    saved = tmp_path / "text_encoder" / "model.safetensors"
    if file != "as saved":
        state = {
            f"text_model.{key.removeprefix('text_model.')}": t
            for key, t in load_file(saved).items()
        }
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        saved.unlink()
        if file.endswith(".bin"):
            torch.save(state, saved.with_name(file))
        else:
            save_file(state, saved, {"format": "pt"})
    loaded = load_text_tower(tmp_path, FP32)
    prompts = ["a cat", ""]
    batch = loaded.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
    assert batch.input_ids.shape == (2, 77)
    assert batch.input_ids[0, 0] == 4
    assert batch.attention_mask.sum(dim=1).tolist()[1] == 2
    with torch.no_grad():
        wanted = tower(**batch).last_hidden_state
    torch.testing.assert_close(loaded.encode(prompts), wanted, rtol=0, atol=1e-5)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    half = load_text_tower(tmp_path, FP16).network
    assert {p.dtype for p in half.parameters()} == {torch.float16}


def test_each_tower_of_a_joined_pipeline_has_its_own_tokenizer(tmp_path: Path, tiny: Path) -> None:
    base, joined = tmp_path / "base", tmp_path / "joined"
    shutil.copytree(tiny, base)
    config = base / "wuerstchen" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 20}))
    shutil.copytree(base / "wuerstchen", joined)
    for name in ("prior", "text_encoder", "tokenizer"):
        shutil.copytree(base / "wuerstchen-prior" / name, joined / f"prior_{name}")
    found = [
        Wuerstchen.load(m, device="cpu", progress=False).encode_text(["a star"])
        for m in (base, joined)
    ]
    assert torch.equal(found[0].prior, found[1].prior)
    assert torch.equal(found[0].decoder, found[1].decoder)


def test_text_tower_is_loaded_strictly(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "1 keys missing (final_layer_norm.weight)": {"without": "final_layer_norm.weight"},
        "1 keys unexpected (text_projection.weight)": {
            "changes": {"text_projection.weight": torch.ones(8, 8)}
        },
        "1 keys of another shape (final_layer_norm.bias [3] instead of [8])": {
            "changes": {"text_model.final_layer_norm.bias": torch.ones(3)}
        },
    }
    for i, (words, arguments) in enumerate(cases.items()):
        folder = tower_folder(tmp_path / str(i), **arguments)
        text = message(load_text_tower, folder, FP32)
        assert words in text
        assert text.startswith(str(folder))


def test_broken_text_towers_are_refused(tmp_path: Path) -> None:
    assert "expected a pipeline with folders text_encoder" in message(
        load_text_tower, tmp_path, FP32
    )
    file = prior_file(tmp_path)
    assert "found a file" in message(load_text_tower, file, FP32)
    folder = tower_folder(tmp_path / "x")
    assert f"{folder / 'tokenizer'}: transformers cannot load this tokenizer" in message(
        load_text_tower, folder, FP32
    )
    own = tower_folder(tmp_path / "y")
    tokenizer(WORDS).save_pretrained(own / "tokenizer")
    refusal = message(load_text_tower, own, FP32)
    assert "expected at most 8 tokens, as in the text_encoder beside" in refusal
    config = folder / "text_encoder" / "config.json"
    for words, said in (
        ({"hidden_size": 9, "num_attention_heads": 2}, "must divide hidden_size = 9, got 2"),
        ({"hidden_act": "quick_gelu"}, "hidden_act must be gelu, as published, got 'quick_gelu'"),
        ({"hidden_size": "8"}, "config entry hidden_size must be like 1280, got '8'"),
        ({"hidden_act": None}, "config entry hidden_act is missing"),
    ):
        entries = {"hidden_act": "gelu", "num_attention_heads": 1, **words}
        config.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
        refusal = message(load_text_tower, folder, FP32)
        assert f"expected a CLIP text tower, but {said}" in refusal.replace(
            "num_attention_heads ", ""
        )
    config.unlink()
    assert "expected config.json beside model.safetensors" in message(load_text_tower, folder, FP32)
    config.write_text("{}")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"1234567890")
    assert "damaged" in message(load_text_tower, folder, FP32)


@pytest.mark.parametrize("length", [2, 1, 0, -1, True, "77", [1], float("inf")])
def test_a_tokenizer_whose_chunks_have_no_room_is_refused(tmp_path: Path, length: Any) -> None:
    assert "model_max_length above 2" in message(
        load_tokenizer, tokenizer_folder(tmp_path, length), len(tokenizer(WORDS))
    )


@pytest.mark.parametrize("length", [3, 77, 1e30, None])
def test_a_tokenizer_may_leave_its_length_open(tmp_path: Path, length: Any) -> None:
    assert load_tokenizer(tokenizer_folder(tmp_path, length), len(tokenizer(WORDS)))


def tokenizer_folder(folder: Path, length: Any) -> Path:
    """Write a tokenizer whose config says a length, None for none."""
    tokenizer(WORDS).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("model_max_length", None)
    if length is not None:
        config["model_max_length"] = length
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_tokenizer_with_numbers_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, 77)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words[next(iter(words))] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(content))
    text = message(load_tokenizer, folder, len(words))
    assert f"expected at most {len(words)} tokens" in text


def test_a_tokenizer_runs_no_code(tmp_path: Path, tiny: Path) -> None:
    folder, exploded = tmp_path / "tokenizer", tmp_path / "exploded"
    shutil.copytree(tiny / "wuerstchen" / "tokenizer", folder)
    lines = ("import os", f"os.mkdir({str(exploded)!r})", "from transformers import CLIPTokenizer")
    (folder / "own.py").write_text("\n".join([*lines, "class Own(CLIPTokenizer): pass"]))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | own))
    with suppress(CheckpointError):
        load_tokenizer(folder, 10**6)
    assert not exploded.exists()
