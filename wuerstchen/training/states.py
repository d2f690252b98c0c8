"""The file of a training run: written whole, and refused unless it is of the networks as they are.

So it is if what the run stands on, the finished networks of parts before it, was trained anew.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..writing import appearing

ENTRIES = {
    "step",
    "steps",
    "seconds",
    "recent",
    "skipped",
    "networks",
    "average",
    "optimizer",
    "ground",
}


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write all `ENTRIES` of a state; a reader never sees half of it."""
    with appearing(path) as part:
        torch.save(state, part)


def load_state(path: Path, networks: nn.Module, ground: str) -> dict[str, Any]:
    """Put a state's weights, not the averaged ones, into `networks`, and return all its entries.

    Raises:
        ValueError: if it is of networks of other sizes, lacks an entry, or stands on networks of
            another checksum than `ground`.
    """
    device = next(networks.parameters()).device
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if set(state) != ENTRIES or shapes(state["networks"]) != shapes(networks.state_dict()):
        raise ValueError(
            f"{path} must be of the networks and the loop as they are now, but is of others; "
            "begin anew in another folder"
        )
    if state["ground"] != ground:
        raise ValueError(
            f"{path} must stand on the parts before it as they are now, but one of them was trained "
            "anew; remove it, and the same command trains it, too"
        )
    networks.load_state_dict(state["networks"])
    return state


def steps_done(path: Path) -> int:
    """Return the steps that a state has seen, 0 where there is none."""
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["step"])


def trained(networks: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [parameter for parameter in networks.parameters() if parameter.requires_grad]


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each tensor by name."""
    return {name: tensor.shape for name, tensor in weights.items()}


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source's numbers into its target."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
