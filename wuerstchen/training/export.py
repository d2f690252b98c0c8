"""Writing the trained networks as a model folder in the published layout, half precision.

In training the semantic latent z has unit variance. The published units are raw = 42 z - 1, so the
compressor's last norm makes raw latents, and Stage B's mappers undo that: M z + b becomes
(M / 42) raw + (b + M·1 / 42).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints.recognise import KINDS
from ..compressor import Compressor
from ..sampling import LATENT_SCALE, LATENT_SHIFT
from ..stage_b import StageB
from .mini import COMPRESSOR, NATIVE_SIZE, STAGE_A, STAGE_B, STAGE_C
from .prior import PriorTask
from .text import Tower

SCHEDULER = {"_class_name": "DDPMWuerstchenScheduler", "s": 0.008, "scaler": 1.0}
SHARED = {
    "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizerFast"],
}
PRIOR_INDEX = {
    "_class_name": "WuerstchenPriorPipeline",
    "latent_mean": LATENT_SCALE,
    "latent_std": LATENT_SHIFT,
    "native_size": NATIVE_SIZE,
    "prior": ["wuerstchen", "WuerstchenPrior"],
    "resolution_multiple": 42.67,
    **SHARED,
}
DECODER_INDEX = {
    "_class_name": "WuerstchenDecoderPipeline",
    "decoder": ["wuerstchen", "WuerstchenDiffNeXt"],
    "latent_dim_scale": 10.67,
    "vqgan": ["wuerstchen", "PaellaVQModel"],
    **SHARED,
}


def export(task: PriorTask, folder: Path) -> None:
    """Write the finished networks of `task` into `folder`. The networks are changed to published units."""
    to_published_units(task.decoder.compressor, task.decoder.stage_b)
    prior, decoder = folder / "wuerstchen-prior", folder / "wuerstchen"
    write_network(prior / "prior", "WuerstchenPrior", asdict(STAGE_C), task.stage_c)
    write_network(decoder / "decoder", "WuerstchenDiffNeXt", asdict(STAGE_B), task.decoder.stage_b)
    write_network(decoder / "vqgan", "PaellaVQModel", asdict(STAGE_A), task.decoder.stage_a)
    write_network(
        decoder / "efficient_net",
        "EfficientNetEncoder",
        asdict(COMPRESSOR),
        task.decoder.compressor,
    )
    for root, index, tower in (
        (prior, PRIOR_INDEX, task.tower),
        (decoder, DECODER_INDEX, task.decoder.tower),
    ):
        write_tower(root, tower)
        write_json(root / "scheduler" / "scheduler_config.json", SCHEDULER)
        write_json(root / "model_index.json", index)


@torch.no_grad()
def to_published_units(compressor: Compressor, stage_b: StageB) -> None:
    """Let the compressor give, and Stage B take, raw latents."""
    norm: Any = compressor.mapper[1]
    norm.weight.mul_(LATENT_SCALE)
    norm.bias.mul_(LATENT_SCALE).sub_(LATENT_SHIFT)
    mappers: list[Any] = list(stage_b.effnet_mappers)
    for mapper in mappers:
        if mapper is not None:
            mapper.weight.div_(LATENT_SCALE)
            mapper.bias.add_(LATENT_SHIFT * mapper.weight.sum(dim=(1, 2, 3)))


def write_network(
    folder: Path, name: str, config: dict[str, Any], network: torch.nn.Module
) -> None:
    """Write `config.json` and the weights as diffusers does."""
    write_json(folder / "config.json", {"_class_name": name} | config)
    write_weights(folder / "diffusion_pytorch_model.safetensors", network.state_dict())


def write_tower(root: Path, tower: Tower) -> None:
    """Write text encoder and tokenizer, with the key prefix that every transformers release reads."""
    tower.words.save_pretrained(root / "tokenizer")
    tower.words.backend_tokenizer.model.save(str(root / "tokenizer"))  # vocab.json and merges.txt
    config = asdict(tower.network.config) | {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "projection_dim": tower.network.config.hidden_size,
        "bos_token_id": tower.words.bos_token_id,
        "eos_token_id": tower.words.eos_token_id,
        "pad_token_id": tower.words.pad_token_id,
        "torch_dtype": "float16",
    }
    write_json(root / "text_encoder" / "config.json", config)
    state = tower.network.state_dict()
    prefix = KINDS["text_encoder"].prefix
    prefixed = {prefix + key: value for key, value in state.items()}
    write_weights(root / "text_encoder" / "model.safetensors", prefixed)


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict with its floating-point tensors in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in state.items()
    }
    save_file(halves, path, metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
