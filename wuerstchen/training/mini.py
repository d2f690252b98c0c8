"""The sizes of the bundled model: the published networks in small, below 8 million numbers in all."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

# transformers 5 makes this name when it is imported, which a type checker cannot see
from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]

from ..compressor import CompressorConfig, Stage
from ..layers import AttnBlock, ResBlock, TimestepBlock
from ..stage_a import StageAConfig
from ..stage_b import StageB, StageBConfig
from ..stage_c import StageC, StageCConfig
from ..text_encoder import TextEncoder, TextEncoderConfig
from .wording import VOCABULARY

NATIVE_SIZE = 256

Network = TypeVar("Network", StageB, StageC)

STAGE_A = StageAConfig(embed_dim=48, bottleneck_blocks=3, num_vq_embeddings=512)

STAGE_B = StageBConfig(
    c_r=32,
    patch_size=4,
    c_cond=64,
    c_hidden=(128, 192),
    nhead=(-1, 6),
    blocks=(3, 3),
    level_config=("CT", "CTA"),
    inject_effnet=(True, True),
    clip_embd=64,
    dropout=0.0,
)

STAGE_C = StageCConfig(c=160, c_cond=128, c_r=32, depth=6, nhead=5)

COMPRESSOR = CompressorConfig(
    c_stem=16,
    stages=(
        Stage(fused=True, expand=1, stride=1, c=16, layers=1),
        Stage(fused=True, expand=4, stride=2, c=24, layers=1),
        Stage(fused=True, expand=4, stride=2, c=40, layers=2),
        Stage(fused=False, expand=4, stride=2, c=64, layers=2),
        Stage(fused=False, expand=4, stride=1, c=64, layers=1),
        Stage(fused=False, expand=4, stride=2, c=96, layers=2),
    ),
    c_head=128,
)


def tokenizer(words: Iterable[str] = VOCABULARY) -> CLIPTokenizerFast:
    """Return a CLIP tokenizer that knows `words` whole and spells all others in bytes."""
    letters = bytes_as_letters()
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    numbers = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        numbers[special] = len(numbers)
    return tokenizer_of(numbers, merges)


def tokenizer_of(
    numbers: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> CLIPTokenizerFast:
    """Return a CLIP tokenizer of the pieces that have `numbers`, put together by `merges` in order."""
    # the way that every version of transformers knows
    with tempfile.TemporaryDirectory() as folder:
        home, lines = Path(folder), ["#version: 0.2", *map(" ".join, merges)]
        (home / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
        (home / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found: CLIPTokenizerFast = CLIPTokenizerFast.from_pretrained(home, model_max_length=77)
    for trace in ("is_local", "local_files_only"):
        found.init_kwargs.pop(trace, None)
    return found


def bytes_as_letters() -> list[str]:
    """Return the 256 printable letters that stand for bytes in byte-level BPE."""
    return sorted(ByteLevel.alphabet())


@torch.no_grad()
def text_encoder(width: int, layers: int, words: CLIPTokenizerFast) -> TextEncoder:
    """Return an untrained text encoder, its numbers drawn as CLIP's are before its training."""
    config = TextEncoderConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=words.model_max_length,
    )
    network, quiet = TextEncoder(config), (2 * width * layers) ** -0.5
    spreads = {"embedding": 0.02, "fc1": (2 * width) ** -0.5, "out_proj": width**-0.5}
    for name, numbers in network.named_parameters():
        if name.endswith("bias"):
            numbers.zero_()
        elif numbers.ndim > 1:
            layer = name.split(".")[-2]
            spread = next((spreads[end] for end in spreads if layer.endswith(end)), quiet)
            numbers.normal_(std=spread)
    return network


def initialise(network: Network) -> Network:
    """Return `network` ready for training: Xavier, quiet branches, silent time blocks and head."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [m for m in network.modules() if isinstance(m, ResBlock | AttnBlock)]
    with torch.no_grad():
        for block in blocks:
            last_layer(block).weight.mul_(len(blocks) ** -0.5)
        for module in network.modules():
            if isinstance(module, TimestepBlock):
                module.mapper.weight.zero_()
        head: Any = network.clf if isinstance(network, StageB) else network.out
        head[1].weight.zero_()
    return network


def last_layer(block: ResBlock | AttnBlock) -> Any:
    """Return the layer that a block's residual branch ends with."""
    return block.channelwise[-1] if isinstance(block, ResBlock) else block.attention.to_out[0]
