"""Prompt -> token features, by a CLIP text tower from transformers.

Würstchen v2 has two towers: OpenCLIP bigG for Stage C and OpenCLIP H for Stage B. Both stages take
the last layer after its final norm, of all tokens with the padding included; there is no pooling.

Shapes: N prompts, L tokens (77), D features of a token (1280 for Stage C, 1024 for Stage B).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .placement import Placement


class TextTower:
    """A text tower with its tokenizer."""

    def __init__(self, network: nn.Module, tokenizer: Any, placement: Placement) -> None:
        """Join the parts.

        Args:
            network: transformers' `CLIPTextModel`, settled by `placement`.
            tokenizer: transformers' `CLIPTokenizer` or `CLIPTokenizerFast`.
            placement: where the network runs.
        """
        self.network = network
        self.tokenizer = tokenizer
        self.placement = placement

    @property
    def width(self) -> int:
        """Features of a token."""
        config: Any = self.network.config
        return int(config.hidden_size)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the features (N, L, D) of `prompts`, float32, on the CPU.

        What goes beyond L tokens is not read, and a warning names it. Padding attends only to the
        tokens of the prompt: without this mask the features of the padding are others.
        """
        limit = self.tokenizer.model_max_length
        self._warn_of_cuts(prompts, limit)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=limit,
            truncation=True,
            return_tensors="pt",
        )
        with self.placement.running(self.network):
            numbers, mask = (
                tokens[k].to(self.placement.device) for k in ("input_ids", "attention_mask")
            )
            features: Tensor = self.network(
                input_ids=numbers, attention_mask=mask
            ).last_hidden_state
        return features.float().cpu()

    def _warn_of_cuts(self, prompts: Sequence[str], limit: int) -> None:
        room = limit - self.tokenizer.num_special_tokens_to_add()
        for numbers in self.tokenizer(list(prompts), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]:
            if len(numbers) > room:
                cut = self.tokenizer.decode(numbers[room:])
                warnings.warn(
                    f"a prompt has {len(numbers)} tokens and the model reads {room}; "
                    f"not read: {cut!r}",
                    stacklevel=3,
                )
