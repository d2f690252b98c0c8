"""Kernels made by PyTorch's compiler for the blocks that a network repeats.

A block is compiled once for all that are alike, in seconds where a whole network takes minutes.
PyTorch keeps the kernels on the disk, for later processes. On a CPU oneDNN's products are faster
(`arithmetic`); compiled networks do without them.
"""

import torch
from torch import nn

from .layers import AttnBlock, ResBlock, TimestepBlock
from .stage_a import MixBlock

VARIANTS = 512  # of all blocks: kinds, widths, skips and shapes; PyTorch's own limit is 8


def compile_blocks(network: nn.Module) -> None:
    """Have every block of `network` compiled when it first runs."""
    from torch._dynamo import config

    # the names that every version knows; newer ones say recompile_limit
    for name in ("cache_size_limit", "accumulated_cache_size_limit"):
        setattr(config, name, max(VARIANTS, getattr(config, name)))
    if torch.__version__ < (2, 5):  # type: ignore[operator]  # a text that compares as numbers
        config.inline_inbuilt_nn_modules = True  # else every block is compiled for itself
    for block in network.modules():
        if isinstance(block, AttnBlock | ResBlock | TimestepBlock | MixBlock):
            block.compile(fullgraph=True)


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where it cannot work.

    Raises:
        ValueError: with what is missing.
    """
    try:
        torch.compile(torch.exp2)(torch.ones(1, device=device))
    except Exception as error:  # PyTorch passes on whatever a compiler or its loader raises
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"compiling for {device} does not work here, leave out compile: {reason}"
        ) from error
