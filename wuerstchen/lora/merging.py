"""LoRA: small updates of Stage C and of its text tower, merged and taken out.

For some layers a LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1) holds two thin matrices. The
layer's weight W becomes W + strength · alpha / rank · up · down; a file without alpha means
alpha = rank. `files` reads them, `names` knows how files name the layers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .files import Lora, Update, load_lora
from .names import PRIOR, TEXT, Target


class Loras:
    """The LoRAs that are merged into Stage C and its text tower, in the order of their adding.

    Merging does not write into a weight: the layer gets a new one, and the one it had is kept until
    `clear` puts it back. In memory are thus the touched weights a second time, where they rest (a
    third while one more is added); those that are mapped from a file stay so. To be used between
    runs, not during one.
    """

    def __init__(self, stage_c: nn.Module, text_tower: nn.Module | None = None) -> None:
        self.networks = {PRIOR: stage_c, TEXT: text_tower}
        self.added: list[tuple[Lora, float]] = []
        self._originals: dict[Target, Any] = {}

    def add(self, source: str | Path, strength: float = 1.0) -> Lora:
        """Merge one more LoRA, wholly or, if it is refused, not at all; return it.

        A weight is its original plus the updates of all LoRAs, summed in float32 in the order of
        adding and cast once. With strength 0 only, it is the original.

        Args:
            source: as for `load_lora`.
            strength: any finite number; below 0 leads away from what the LoRA was trained on.

        Raises:
            CheckpointError: as for `load_lora`.
            ValueError: if the strength is not finite, or too great for the weights' precision.
        """
        if not math.isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        lora = load_lora(source, self.networks[PRIOR], self.networks[TEXT])
        originals = {t: self._originals.get(t, self._layer(t).weight) for t in lora.updates}
        added = [*self.added, (lora, strength)]
        weights = {
            t: merged(self._layer(t), weight, updates_of(t, added))
            for t, weight in originals.items()
        }
        for target, weight in weights.items():
            if not weight.isfinite().all():
                raise ValueError(
                    f"strength must keep the weights finite, got {strength}, with which "
                    f"{target.layer} is beyond {weight.dtype}; take a smaller one for {lora.path}"
                )
        self._originals |= originals
        self._put(weights)
        self.added = added
        return lora

    def clear(self) -> None:
        """Take all LoRAs out: every layer has its very own weight again."""
        self._put(self._originals)
        self.added, self._originals = [], {}

    def _layer(self, target: Target) -> Any:
        network: Any = self.networks[target.part]
        return network.get_submodule(target.layer)

    def _put(self, weights: Mapping[Target, nn.Parameter]) -> None:
        for target, weight in weights.items():
            self._layer(target).weight = weight


def updates_of(target: Target, added: Sequence[tuple[Lora, float]]) -> list[tuple[Update, float]]:
    """Return the updates of one layer with their strengths, without those of strength 0."""
    return [(lora.updates[target], s) for lora, s in added if s and target in lora.updates]


def merged(
    layer: Any, weight: nn.Parameter, updates: Sequence[tuple[Update, float]]
) -> nn.Parameter:
    """Return `weight`, the original of `layer`, plus the updates; itself without any.

    It has the same device and dtype; of a quantized one, the dtype of the bias.
    """
    if not updates:
        return weight
    exact, dtype = weight.detach().float(), weight.dtype
    if not weight.is_floating_point():
        exact, dtype = exact * layer.scale, layer.bias.dtype
    summed = exact + sum(strength * delta(update, weight) for update, strength in updates)
    return nn.Parameter(summed.to(dtype), weight.requires_grad)


def delta(update: Update, like: Tensor) -> Tensor:
    """Return an update in float32, on the device and in the shape of `like`."""
    up, down = (part.to(like.device).float().flatten(1) for part in (update.up, update.down))
    return (update.scale * (up @ down)).view(like.shape)
