"""Sizes of a network, read off its shapes or a config of any spelling; those that cannot be are refused."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wuerstchen.checkpoints.configs import (
    blocks,
    config_from_entries,
    config_from_shapes,
    level_layouts,
)
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.recognise import KINDS
from wuerstchen.compressor import CompressorConfig
from wuerstchen.stage_a import StageAConfig
from wuerstchen.stage_b import StageBConfig
from wuerstchen.stage_c import StageCConfig

from .checkpoint_files import (
    FP32,
    SMALLEST,
    STAGES,
    TINY,
    component,
    message,
    prior_file,
    refused,
    smallest_state,
)


@pytest.mark.parametrize("kind", [*STAGES, "text_encoder"])
def test_published_sizes_are_read_off_the_published_shapes(kind: str) -> None:
    with torch.device("meta"):
        state = KINDS[kind].network().state_dict()
    config = config_from_shapes(kind, {key: tuple(t.shape) for key, t in state.items()})
    assert config == KINDS[kind].config()


@pytest.mark.parametrize(
    ("kind", "changes"), [("stage_b", {"kernel_size": 5}), ("stage_a", {"levels": 3})]
)
def test_kernel_and_levels_are_read_off_the_tensors(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    config = replace(TINY[kind], **changes)
    save_file(KINDS[kind].network(config).state_dict(), tmp_path / "a.safetensors")
    assert load_network(tmp_path / "a.safetensors", kind, FP32).config == config


def test_many_levels_are_counted_in_one_pass() -> None:
    shapes = {f"down_blocks.{i}.0.mapper.weight": (2, 1) for i in range(6000)}
    started = time.perf_counter()
    assert level_layouts(shapes) == [(1, "T", 1)] * 6000
    assert time.perf_counter() - started < 2


def test_sizes_that_shapes_do_not_tell_are_refused(tmp_path: Path) -> None:
    save_file(
        KINDS["stage_c"].network(StageCConfig(c=32, nhead=4, depth=1)).state_dict(),
        tmp_path / "a.safetensors",
    )
    assert "nhead cannot be read off the tensors unless 64 divides the channels, got 32" in refused(
        tmp_path / "a.safetensors"
    )
    assert "blocks.1.mapper.weight" in refused(
        prior_file(tmp_path, without="blocks.1.mapper.weight")
    )
    assert "is there twice" in refused(
        prior_file(tmp_path, {"blocks.2.attention.attn.in_proj_bias": torch.ones(192)})
    )
    assert "no three equal parts" in refused(
        prior_file(tmp_path, {"blocks.2.attention.attn.in_proj_bias": torch.ones(2)})
    )


def test_a_decoder_without_its_convolutions_is_refused_and_described(tmp_path: Path) -> None:
    tensors = {key: t for key, t in smallest_state("stage_b").items() if "depthwise" not in key}
    save_file(tensors, tmp_path / "a.safetensors")
    assert "keys unexpected (down_blocks" in refused(tmp_path / "a.safetensors", "stage_b")
    assert describe(tmp_path / "a.safetensors")[0].kind == "stage_b"


def test_old_spellings_of_configs_are_understood(tmp_path: Path) -> None:
    prior = component(tmp_path / "prior", "stage_c")
    entries = {"_class_name": "Prior", "latent_size": [12, 12], **asdict(TINY["stage_c"])}
    (prior / "config.json").write_text(json.dumps(entries))
    assert load_network(prior, "stage_c", FP32).config == TINY["stage_c"]
    vqgan = component(tmp_path / "vqgan", "stage_a")
    entries = {
        "levels": 2,
        "bottleneck_blocks": 3,
        "c_hidden": 16,
        "c_latent": 3,
        "codebook_size": 32,
    }
    (vqgan / "config.json").write_text(json.dumps({**entries, "scale_factor": 1}))
    config = load_network(vqgan, "stage_a", FP32).config
    assert config == StageAConfig(**{**asdict(TINY["stage_a"]), "scale_factor": 1.0})


def test_the_published_compressor_has_a_config_of_other_words() -> None:
    entries = {"_class_name": "EfficientNetEncoder", "c_latent": 16, "c_cond": 1280}
    config = config_from_entries("compressor", {**entries, "effnet": "efficientnet_v2_s"})
    assert config == CompressorConfig()


def test_averaged_weights_say_how_they_were_averaged(tmp_path: Path) -> None:
    folder = component(tmp_path / "prior_ema", "stage_c")
    config = json.loads((folder / "config.json").read_text())
    averaging = {
        "decay": 0.9999,
        "min_decay": 0.0,
        "power": 2 / 3,
        "optimization_step": 10,
        "inv_gamma": 1.0,
        "update_after_step": 0,
        "use_ema_warmup": False,
    }
    (folder / "config.json").write_text(json.dumps(config | averaging))
    assert load_network(folder, "stage_c", FP32).config == TINY["stage_c"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"width": 3}, "config entry 'width' is unknown, known are c_in, c,"),
        ({"depth": "1"}, "config entry depth must be like 32, got '1'"),
        ({"depth": True}, "config entry depth must be like 32, got True"),
        ({"depth": 0}, "Stage C sizes must be positive"),
        ({"nhead": 5}, "nhead must divide c = 64, got 5"),
        ({"depth": 10**5}, "config asks for 100000 blocks, but there are 28 tensors"),
        ({"c": 2**50}, "its config asks for sizes that cannot be (Storage size calculation"),
        ({"c_cond": 10**30}, "its config asks for sizes that cannot be ("),
        ({"dropout": 7.0}, "its config asks for sizes that cannot be (dropout probability"),
        ({"dropout": float("nan")}, "config entry dropout must be a finite number, got nan"),
        ({"dropout": float("inf")}, "config entry dropout must be a finite number, got inf"),
        ({"dropout": 10**400}, "config entry dropout must be a finite number, got 1000"),
        ({"depth": 2}, "keys missing (blocks.3."),
        ([], "expected a JSON object, found a list"),
    ],
)
def test_config_that_does_not_fit_is_refused(tmp_path: Path, entries: Any, words: str) -> None:
    save_file(smallest_state(), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {**asdict(SMALLEST["stage_c"]), **entries} if isinstance(entries, dict) else entries
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words in refused(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "expected a JSON object, found Expecting property name" in refused(tmp_path)


@pytest.mark.parametrize("size", ["c_in", "kernel_size", "c_hidden"])
def test_negative_sizes_are_refused(tmp_path: Path, size: str) -> None:
    save_file(smallest_state("stage_b"), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {**asdict(SMALLEST["stage_b"]), size: [-64] if size == "c_hidden" else -2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "asks for sizes that cannot be (Trying to create tensor with negative" in refused(
        tmp_path, "stage_b"
    )


def test_the_blocks_that_a_config_asks_for_are_counted() -> None:
    published = {"stage_a": 14, "stage_b": 74, "stage_c": 32, "compressor": 40, "text_encoder": 32}
    assert {kind: blocks(entry.config()) for kind, entry in KINDS.items()} == published
    long = StageBConfig(blocks=(-(10**9), 10**6, 1, 1), level_config=("CT", "", "CTA", "CTA"))
    assert blocks(long) == 10**6 + 6


def test_nested_json_is_refused(tmp_path: Path) -> None:
    path = prior_file(tmp_path).rename(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert "expected a JSON object, found " in message(load_network, path, "stage_c", FP32)


@pytest.mark.parametrize("written", [torch.randn(3, 2), torch.tensor([300, -1]), torch.tensor(7)])
def test_sizes_among_the_tensors_that_are_no_text_are_refused(
    tmp_path: Path, written: Tensor
) -> None:
    path = prior_file(tmp_path, {"wuerstchen.config": written})
    assert "expected a JSON object, found " in message(load_network, path, "stage_c", FP32)
