"""Tiny networks as files, whole and spoilt: what the tests of all that reads files share."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wuerstchen import CheckpointError
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.recognise import KINDS
from wuerstchen.compressor import CompressorConfig, Stage
from wuerstchen.placement import Placement
from wuerstchen.stage_a import StageAConfig
from wuerstchen.stage_b import StageBConfig
from wuerstchen.stage_c import StageCConfig
from wuerstchen.text_encoder import TextEncoderConfig

FP32, FP16 = Placement(), Placement(dtype=torch.float16)
TINY: dict[str, Any] = {
    "stage_a": StageAConfig(
        bottleneck_blocks=3, embed_dim=16, latent_channels=3, num_vq_embeddings=32
    ),
    "stage_b": StageBConfig(
        c_in=3,
        c_out=3,
        c_r=16,
        c_cond=48,
        c_hidden=(32, 64, 128),
        nhead=(-1, 1, 2),
        blocks=(1, 2, 1),
        level_config=("CT", "CTA", "CTA"),
        inject_effnet=(False, True, True),
        effnet_embd=5,
        clip_embd=40,
    ),
    "stage_c": StageCConfig(c_in=5, c=64, c_cond=32, c_r=16, depth=3, nhead=1),
    "compressor": CompressorConfig(
        c_latent=5,
        c_stem=8,
        stages=tuple(Stage(fused=i < 2, expand=2, stride=2, c=8, layers=1) for i in range(4)),
        c_head=16,
    ),
    "text_encoder": TextEncoderConfig(
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=1,
        vocab_size=20,
        max_position_embeddings=9,
    ),
}
SMALLEST: dict[str, Any] = {
    "stage_a": StageAConfig(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=32),
    "stage_b": StageBConfig(
        c_cond=32,
        c_hidden=(64,),
        nhead=(1,),
        blocks=(1,),
        level_config=("CTA",),
        inject_effnet=(True,),
    ),
    "stage_c": StageCConfig(c=64, c_cond=32, depth=1, nhead=1),
}
STAGES = ("stage_a", "stage_b", "stage_c")


def random_state(kind: str) -> dict[str, Tensor]:
    """Return random weights of the tiny network under its own names."""
    generator = torch.Generator().manual_seed(7)
    state = KINDS[kind].network(TINY[kind]).state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.1
        else:
            state[key] = torch.tensor(3)
    return state


def smallest_state(kind: str = "stage_c") -> dict[str, Tensor]:
    """Return the first weights of the smallest network."""
    return KINDS[kind].network(SMALLEST[kind]).state_dict()


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state under the authors' names (the other way from what the package does)."""
    renamed = {}
    for key, tensor in state.items():
        key = key.replace("vquantizer.embedding", "vquantizer.codebook").replace(
            "to_out.0", "attn.out_proj"
        )
        block, q, end = key.partition("to_q.")
        if q:
            tensor = torch.cat([state[f"{block}{name}.{end}"] for name in ("to_q", "to_k", "to_v")])
            key = f"{block}attn.in_proj_{end}"
        if "to_k." not in key and "to_v." not in key:
            renamed[key] = tensor
    return renamed


def component(folder: Path, kind: str, name: str = "diffusion_pytorch_model.safetensors") -> Path:
    """Write a component folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "X", **asdict(TINY[kind])}))
    write = save_file if name.endswith(".safetensors") else torch.save
    write(random_state(kind), folder / name)
    return folder


def prior_file(folder: Path, changes: dict[str, Tensor] | None = None, without: str = "") -> Path:
    """Write a prior with some tensors changed, added or left out."""
    tensors = {
        key: tensor
        for key, tensor in (smallest_state() | (changes or {})).items()
        if key != without
    }
    save_file(tensors, folder / "prior.safetensors")
    return folder / "prior.safetensors"


def tower_folder(root: Path, changes: dict[str, Tensor] | None = None, without: str = "") -> Path:
    """Write a pipeline folder with a text tower of which some tensors are changed or left out."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        hidden_act="gelu", bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    (root / "tokenizer").mkdir(parents=True)
    config.save_pretrained(root / "text_encoder")
    tensors: OrderedDict[str, Tensor] = OrderedDict(CLIPTextModel(config).state_dict()) | (
        changes or {}
    )
    tensors = OrderedDict((k.removeprefix("text_model."), t) for k, t in tensors.items())
    tensors.pop(without, None)
    save_file(tensors, root / "text_encoder" / "model.safetensors", {"format": "pt"})
    return root


def assert_holds(
    network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Check that a network is ready to run, with these very numbers."""
    loaded = network.state_dict()
    assert list(loaded) == list(state)
    for key, tensor in state.items():
        wanted = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert loaded[key].dtype == wanted.dtype, key
        assert torch.equal(loaded[key], wanted), key
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def message(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line of the `CheckpointError` that a call ends in."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def refused(source: str | Path, kind: str = "stage_c") -> str:
    """Return the one line with which a source is refused, which begins with the source."""
    text = message(load_network, source, kind, FP32)
    assert text.startswith(str(source))
    return text
