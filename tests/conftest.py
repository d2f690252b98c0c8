"""A tiny Würstchen in the published layout, with random weights that are nowhere zero."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wuerstchen import Wuerstchen, arithmetic
from wuerstchen.__main__ import main
from wuerstchen.compressor import Compressor, CompressorConfig, Stage
from wuerstchen.lora.merging import Loras
from wuerstchen.memory import memory_left
from wuerstchen.stage_a import StageA, StageAConfig
from wuerstchen.stage_b import StageB, StageBConfig
from wuerstchen.stage_c import StageC, StageCConfig

from .command_line.calls import QUICK

TEXT_WIDTH = 32
NATIVE_SIZE = 256
WORDS = ("a", "large", "red", "blue", "circle", "on", "background", "green", "star", "info")

STAGE_C = StageCConfig(c=32, c_cond=TEXT_WIDTH, c_r=16, depth=2, nhead=2)
STAGE_B = StageBConfig(
    c_r=16,
    c_cond=24,
    c_hidden=(8, 16, 32, 32),
    nhead=(-1, 2, 2, 2),
    blocks=(1, 1, 2, 1),
    clip_embd=TEXT_WIDTH,
)
STAGE_A = StageAConfig(bottleneck_blocks=2, embed_dim=16, num_vq_embeddings=32)
COMPRESSOR = CompressorConfig(
    c_stem=8,
    stages=tuple(Stage(fused=i < 2, expand=2, stride=2, c=8, layers=1) for i in range(4)),
    c_head=16,
)


def pytest_configure() -> None:
    """Have one thread multiply, here and in the processes of tests, unless OMP_NUM_THREADS says more.

    Tiny networks gain nothing from two, which on a busy machine wait for each other.
    """
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def told_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not tell how much memory is left has as much as is asked for."""
    if memory_left() == 0:
        monkeypatch.setattr(arithmetic, "memory_left", lambda: math.inf)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `wuerstchen-prior` and `wuerstchen`."""
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two such folders, each with a compressor; all weights and the native sizes differ."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    for i, folder in enumerate(folders):
        write_model(folder, 10 * i, NATIVE_SIZE + 128 * i)
        home = folder / "wuerstchen" / "efficient_net"
        write_network(home, "EfficientNetEncoder", Compressor(COMPRESSOR), 10 * i + 6)
    return folders


@pytest.fixture(scope="module")
def model(tiny: Path) -> Wuerstchen:
    """The tiny model, loaded."""
    return Wuerstchen.load(tiny, device="cpu", progress=False)


@pytest.fixture
def loras(model: Wuerstchen) -> Iterator[Loras]:
    """What merges LoRAs into the tiny model, and takes them out after the test."""
    merged = Loras(model.stage_c, model.prior_text.network)
    yield merged
    merged.clear()


@pytest.fixture
def paint(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line on the tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: main([*map(str, words), *QUICK, "--model", str(tiny), "--device", "cpu"])


@pytest.fixture(scope="module")
def pair(twins: tuple[Path, Path]) -> list[Wuerstchen]:
    """Two models with compressors."""
    return [Wuerstchen.load(twin, device="cpu", progress=False) for twin in twins]


def write_model(root: Path, seed: int = 0, native_size: int = NATIVE_SIZE) -> Path:
    """Write the networks, text towers and tokenizers of a model without a compressor."""
    prior, decoder = root / "wuerstchen-prior", root / "wuerstchen"
    write_network(prior / "prior", "WuerstchenPrior", StageC(STAGE_C), seed + 1)
    write_network(decoder / "decoder", "WuerstchenDiffNeXt", StageB(STAGE_B), seed + 2)
    write_network(decoder / "vqgan", "PaellaVQModel", StageA(STAGE_A), seed + 3)
    for i, (folder, index) in enumerate(
        {
            prior: {"_class_name": "WuerstchenPriorPipeline", "native_size": native_size},
            decoder: {"_class_name": "WuerstchenDecoderPipeline"},
        }.items()
    ):
        write_text_tower(folder, seed + 4 + i)
        write_json(folder / "model_index.json", index)
        scheduler = {"_class_name": "DDPMWuerstchenScheduler", "s": 0.008, "scaler": 1.0}
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    return root


def write_network(folder: Path, name: str, network: Any, seed: int) -> None:
    """Write a component folder with random weights."""
    randomise(network, seed)
    tame_head(network)
    write_json(folder / "config.json", {"_class_name": name, **asdict(network.config)})
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Give every number of a network a random value, of a size that keeps activations finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "running_var" in name:
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.ndim > 1 and "gamma" not in name and "beta" not in name:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(noise * 0.3)


@torch.no_grad()
def tame_head(network: nn.Module) -> None:
    """Make the last layer behave as a trained one.

    Semantic latents are 42 z - 1 with z near 1. Pixels come near the middle of [0, 1], since what
    is clamped hides differences. The noise that a diffusion head predicts, (x - a) / f(b), comes
    near x: with a divisor near zero, sampling is chaos and any rounding becomes another picture.
    """
    last: Any
    if isinstance(network, Compressor):
        last = network.mapper[1]
        last.weight.mul_(100.0)
    elif isinstance(network, StageA):
        last = network.out_block[0]
        last.weight.mul_(0.2)
        last.bias.mul_(0.2).add_(0.5)
    else:
        last = network.clf[1] if isinstance(network, StageB) else network.get_submodule("out")[1]
        last.weight.mul_(0.2)
        last.bias.mul_(0.2)
    if isinstance(network, StageB):
        last.bias[-last.bias.numel() // 2 :] += 3.0


def write_text_tower(folder: Path, seed: int) -> None:
    """Write a CLIP text tower and its tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from wuerstchen.training.mini import tokenizer as make_tokenizer

    tokenizer = make_tokenizer(WORDS)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tower = CLIPTextModel(config)
    randomise(tower, seed)
    tower.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def write_json(path: Path, entries: Any) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=2))
