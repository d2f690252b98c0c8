"""Random LoRAs under every way of naming, as tensors and as files, and the weights they should give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from wuerstchen.lora.merging import Loras
from wuerstchen.lora.names import PRIOR, TEXT, Target

RANK = 2
ATTENTION = [
    Target(PRIOR, f"blocks.{i}.attention.{name}")
    for i in (2, 5)
    for name in ("to_q", "to_k", "to_v", "to_out.0")
]
CONVOLUTIONS = [Target(PRIOR, "projection"), Target(PRIOR, "blocks.0.depthwise")]
OTHERS = [
    Target(PRIOR, name)
    for name in ("cond_mapper.0", "blocks.0.channelwise.4", "blocks.1.mapper", "out.1")
]
SELF_ATTENTION = [
    Target(TEXT, f"encoder.layers.{i}.self_attn.{name}_proj")
    for i in (0, 1)
    for name in ("q", "k", "v", "out")
]
EVERYWHERE = [
    *ATTENTION,
    *CONVOLUTIONS,
    *OTHERS,
    *SELF_ATTENTION,
    Target(TEXT, "encoder.layers.0.mlp.fc1"),
]

Pairs = dict[Target, tuple[Tensor, Tensor]]
Name = Callable[[Target, str], str]


def weight(networks: Loras, target: Target) -> Tensor:
    network: Any = networks.networks[target.part]
    found: Tensor = network.get_submodule(target.layer).weight
    return found


def copies(networks: Loras) -> dict[str, Tensor]:
    """Return a copy of every tensor of both networks."""
    return {
        f"{part} {key}": tensor.clone()
        for part, network in networks.networks.items()
        if network is not None
        for key, tensor in network.state_dict().items()
    }


def unchanged(networks: Loras, before: dict[str, Tensor]) -> bool:
    now = copies(networks)
    return all(torch.equal(bits(now[key]), bits(before[key])) for key in before)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor


def draw(networks: Loras, targets: list[Target], seed: int = 0) -> Pairs:
    """Return a random up and down of each layer; those of a convolution as a convolution's."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for target in targets:
        shape = weight(networks, target).shape
        ones = [1] * (len(shape) - 2)
        up = torch.randn(shape[0], RANK, *ones, generator=generator)
        pairs[target] = up * 0.2, torch.randn(RANK, *shape[1:], generator=generator) * 0.2
    return pairs


def random_pair(stem: str, rows: int = 32, columns: int = 32) -> dict[str, Tensor]:
    return {
        f"{stem}.lora_up.weight": torch.randn(rows, RANK),
        f"{stem}.lora_down.weight": torch.randn(RANK, columns),
    }


def named(pairs: Pairs, name: Name) -> dict[str, Tensor]:
    """Return the tensors of a file; `name` gives a layer's key for "down" and for "up"."""
    files = [{name(t, "up"): up, name(t, "down"): down} for t, (up, down) in pairs.items()]
    return {key: tensor for tensors in files for key, tensor in tensors.items()}


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def by_hand(networks: Loras, pairs: Pairs, scale: float) -> dict[Target, Tensor]:
    return {
        target: weight(networks, target)
        + scale * (up.flatten(1) @ down.flatten(1)).view(weight(networks, target).shape)
        for target, (up, down) in pairs.items()
    }


def check_merged(networks: Loras, expected: dict[Target, Tensor]) -> None:
    for target, tensor in expected.items():
        torch.testing.assert_close(weight(networks, target).data, tensor)


def dotted(prior: str, text: str, ending: str, words: dict[str, str]) -> Name:
    """Return the names of a format with dots; `words` are the format's for "up" and "down"."""
    return lambda target, role: (
        {PRIOR: prior, TEXT: text}[target.part] + target.layer + ending.format(words[role])
    )


def processor(target: Target, role: str) -> str:
    layer = target.layer.removesuffix(".0")
    if target.part == PRIOR:
        return f"prior.{layer.replace('.to_', '.processor.to_')}_lora.{role}.weight"
    block, _, last = layer.rpartition(".")
    return f"text_encoder.text_model.{block}.to_{last.removesuffix('_proj')}_lora.{role}.weight"


def kohya(prior: str, text: str) -> Name:
    """Return the names of a format with underscores."""
    return lambda target, role: (
        {PRIOR: prior, TEXT: text}[target.part]
        + target.layer.replace(".", "_")
        + f".lora_{role}.weight"
    )


def authors(target: Target, role: str) -> str:
    return peft(target, role).replace(".attention.to_out.0", ".attention.attn.out_proj")


AB = {"up": "B", "down": "A"}
WORDS = {"up": "up", "down": "down"}
peft = dotted("prior.", "text_encoder.text_model.", ".lora_{}.weight", AB)
FORMATS: dict[str, tuple[Name, list[Target]]] = {
    "attention processors": (processor, [*ATTENTION, *SELF_ATTENTION]),
    "PEFT": (peft, EVERYWHERE),
    "PEFT without a prefix": (dotted("", "text_model.", ".lora_{}.weight", AB), EVERYWHERE),
    "PEFT with an adapter's name": (
        dotted("base_model.model.", "base_model.model.", ".lora_{}.default.weight", AB),
        EVERYWHERE,
    ),
    "layers of diffusers 0.22": (
        dotted("unet.", "text_encoder.text_model.", ".lora.{}.weight", WORDS),
        EVERYWHERE,
    ),
    "linear layers of diffusers": (
        dotted("prior.", "text_encoder.text_model.", ".lora_linear_layer.{}.weight", WORDS),
        EVERYWHERE,
    ),
    "the host": (dotted("diffusion_model.", "text_encoder.", ".lora_{}.weight", WORDS), EVERYWHERE),
    "kohya": (kohya("lora_unet_", "lora_te_text_model_"), EVERYWHERE),
    "kohya with numbered towers": (kohya("lora_unet_", "lora_te1_text_model_"), EVERYWHERE),
    "OneTrainer": (
        dotted("lora_prior_unet.", "lora_prior_te.", ".lora_{}.weight", WORDS),
        EVERYWHERE,
    ),
    "OneTrainer until 2025": (kohya("lora_prior_unet_", "lora_prior_te_text_model_"), EVERYWHERE),
    "OneTrainer until 2024": (kohya("lora_prior_prior_", "lora_prior_te_text_model_"), EVERYWHERE),
    "the authors' layout": (authors, [t for t in ATTENTION if "to_out" in t.layer]),
}
