"""LoRA files in every way of naming, precision and format, and where they say their alphas."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wuerstchen.lora.files import load_lora
from wuerstchen.lora.merging import Loras
from wuerstchen.lora.names import PRIOR, TEXT, Target, bare
from wuerstchen.lora.peft import matcher

from .lora_tensors import (
    ATTENTION,
    EVERYWHERE,
    FORMATS,
    RANK,
    Name,
    by_hand,
    check_merged,
    draw,
    kohya,
    named,
    peft,
    processor,
    written,
)


@pytest.mark.parametrize("style", FORMATS)
def test_every_way_of_naming_merges_the_same_update(
    loras: Loras, tmp_path: Path, style: str
) -> None:
    name, targets = FORMATS[style]
    pairs = draw(loras, targets)
    expected = by_hand(loras, pairs, 0.7)
    lora = loras.add(written(tmp_path / "lora.safetensors", named(pairs, name)), 0.7)
    assert set(lora.updates) == set(targets)
    check_merged(loras, expected)


@pytest.mark.parametrize(
    "start", ["model.diffusion_model.", "module.", "base_model.model.module.prior."]
)
def test_what_stands_before_a_layer_is_taken_off(start: str) -> None:
    assert bare(f"{start}blocks.2.attention.to_q") == "blocks.2.attention.to_q"


def test_queries_keys_and_values_joined_in_one_matrix_are_parted(
    loras: Loras, tmp_path: Path
) -> None:
    q, k, v = ATTENTION[:3]
    pairs = draw(loras, [q, k, v])
    down = pairs[q][1]
    expected = by_hand(loras, {target: (pairs[target][0], down) for target in pairs}, 1)
    up = torch.cat([pairs[target][0] for target in (q, k, v)])
    for stem in (
        "prior.blocks.2.attention.attn",
        "base_model.model.blocks.2.attention.attn.in_proj",
        "lora_unet_blocks_2_attention_attn_in_proj",
    ):
        tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
        loras.add(written(tmp_path / "lora.safetensors", tensors))
        check_merged(loras, expected)
        loras.clear()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_files_of_any_precision_and_of_both_formats_are_read(
    loras: Loras, tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    pairs = {t: (a.to(dtype), b.to(dtype)) for t, (a, b) in draw(loras, EVERYWHERE).items()}
    expected = by_hand(loras, {t: (a.float(), b.float()) for t, (a, b) in pairs.items()}, 1)
    loras.add(written(tmp_path / f"lora{suffix}", named(pairs, peft)))
    check_merged(loras, expected)


@pytest.mark.parametrize("file", ["pytorch_lora_weights.safetensors", "adapter_model.bin"])
def test_a_folder_stands_for_the_lora_in_it(loras: Loras, tmp_path: Path, file: str) -> None:
    path = written(tmp_path / file, named(draw(loras, ATTENTION), peft))
    assert loras.add(tmp_path).path == loras.add(str(path)).path == path


@pytest.mark.parametrize("name", [peft, kohya("lora_unet_", "lora_te_text_model_")])
def test_alpha_is_divided_by_the_rank(loras: Loras, tmp_path: Path, name: Name) -> None:
    pairs = draw(loras, EVERYWHERE)
    expected = by_hand(loras, pairs, 0.5 * 5 / RANK)
    tensors = named(pairs, name)
    for target in pairs:
        layer = name(target, "up").rsplit(".lora_", 1)[0]
        tensors[f"{layer}.alpha"] = torch.tensor(5)
    loras.add(written(tmp_path / "lora.safetensors", tensors), 0.5)
    check_merged(loras, expected)


def test_alpha_may_differ_from_layer_to_layer_and_be_missing_from_some(
    loras: Loras, tmp_path: Path
) -> None:
    pairs = draw(loras, ATTENTION[:3])
    tensors = named(pairs, processor)
    tensors[processor(ATTENTION[0], "down") + ".alpha"] = torch.tensor([1.0])
    tensors["prior.blocks.2.attention.to_k_lora.alpha"] = torch.tensor(8.0)
    lora = load_lora(written(tmp_path / "lora.safetensors", tensors), loras.networks[PRIOR], None)
    assert [lora.updates[target].scale for target in ATTENTION[:3]] == [0.5, 4, 1]


@pytest.mark.parametrize("alpha", [5, 0.5, -3.0])
def test_an_alpha_saved_as_a_plain_number_counts(
    loras: Loras, tmp_path: Path, alpha: float
) -> None:
    pairs = draw(loras, EVERYWHERE)
    expected = by_hand(loras, pairs, alpha / RANK)
    alphas = {peft(t, "up").replace("lora_B.weight", "alpha"): alpha for t in pairs}
    torch.save({**named(pairs, peft), **alphas}, tmp_path / "lora.bin")
    loras.add(tmp_path / "lora.bin")
    check_merged(loras, expected)


def test_numbers_that_are_no_alpha_are_passed_over(loras: Loras, tmp_path: Path) -> None:
    pairs = draw(loras, ATTENTION)
    expected = by_hand(loras, pairs, 1)
    torch.save({"epoch": 3, **named(pairs, peft), "loss": 0.5}, tmp_path / "lora.pt")
    loras.add(tmp_path / "lora.pt")
    check_merged(loras, expected)


@pytest.mark.parametrize(
    ("entries", "scales"),
    [
        ({"r": RANK, "lora_alpha": 8}, (4.0, 4.0)),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, (8 / RANK**0.5, 8 / RANK**0.5)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {r"blocks\.5\..*to_q": 6}}, (1.0, 3.0)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"5.attention.to_q": 6}}, (1.0, 3.0)),
        ({"lora_dropout": 0.1}, (1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("where", ["", "prior.", "unet.", "folder"])
def test_alpha_is_also_taken_from_what_peft_wrote_beside_the_tensors(
    loras: Loras, tmp_path: Path, where: str, entries: dict[str, Any], scales: tuple[float, ...]
) -> None:
    first, second = (
        Target(PRIOR, "blocks.2.attention.to_q"),
        Target(PRIOR, "blocks.5.attention.to_q"),
    )
    tensors = named(draw(loras, [first, second]), peft)
    metadata = None
    if where == "folder":
        (tmp_path / "adapter_config.json").write_text(json.dumps(entries))
    else:
        header = json.dumps({where + key: value for key, value in entries.items()})
        metadata = {"format": "pt", "lora_adapter_metadata": header}
    path = written(tmp_path / "adapter_model.safetensors", tensors, metadata)
    updates = load_lora(path, loras.networks[PRIOR]).updates
    assert (updates[first].scale, updates[second].scale) == pytest.approx(scales)


@pytest.mark.parametrize("start", ["text_model.", ""])
def test_alpha_of_the_text_tower_is_told_by_names_with_and_without_their_start(
    loras: Loras, tmp_path: Path, start: str
) -> None:
    layer = "encoder.layers.0.self_attn.q_proj"
    target = Target(TEXT, layer)
    tensors = named(draw(loras, [target]), peft)
    entries = {"text_encoder.r": 4, "text_encoder.alpha_pattern": {start + layer: 8}}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(entries)}
    path = written(tmp_path / "adapter_model.safetensors", tensors, header)
    updates = load_lora(path, loras.networks[PRIOR], loras.networks[TEXT]).updates
    assert updates[target].scale == pytest.approx(8 / RANK)


def test_an_alpha_in_the_file_comes_before_that_of_a_config(loras: Loras, tmp_path: Path) -> None:
    target = ATTENTION[0]
    tensors = named(draw(loras, [target]), peft) | {
        f"prior.{target.layer}.alpha": torch.tensor(5.0)
    }
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 8})}
    path = written(tmp_path / "lora.safetensors", tensors, header)
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 2.5


def test_a_config_beside_another_file_is_not_its_own(loras: Loras, tmp_path: Path) -> None:
    target = ATTENTION[0]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}))
    path = written(tmp_path / "style.safetensors", named(draw(loras, [target]), peft))
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "blocks.2.attention.to_q",
        r"^blocks\.2\.attention\.to_q$",
        ".*to_q",
        r"blocks\.\d+\..*\.(to_q|to_k)",
        r"(prior\.)?blocks\.[0-9]+\.attention\.to_(?:q|k|v)",
        r"blocks\.(2|5)\..*to_q.*",
    ],
)
def test_patterns_as_people_write_them_for_peft_are_compared(pattern: str) -> None:
    assert matcher(pattern).fullmatch("blocks.2.attention.to_q")
    assert not matcher(pattern).fullmatch("blocks.2.attention.to_out.0")


@pytest.mark.parametrize("pattern", ["attention", r"\.attention\.to_q", "2.attention.to"])
def test_a_pattern_is_whole_names(loras: Loras, tmp_path: Path, pattern: str) -> None:
    target = ATTENTION[0]
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2, "alpha_pattern": {pattern: 6}})}
    path = written(tmp_path / "lora.safetensors", named(draw(loras, [target]), peft), header)
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 1
