"""Prompt -> token features, by a CLIP text tower.

Würstchen v2 has two towers: OpenCLIP bigG for Stage C and OpenCLIP H for Stage B. Both stages take
the last layer after its final norm, of all tokens with the padding included; there is no pooling.

A tower reads 77 tokens: a start, up to 75 of the prompt, an end, padding. Of a longer prompt it
reads one chunk of 75 after the other, each as if it were alone. A stage attends to every token,
padding included, so a short prompt in more chunks than it needs would give another picture:
prompts of different lengths have features of different lengths.

Shapes: N prompts, M chunks of all of them, L tokens (77 per chunk), D features of a token (1280 for
Stage C, 1024 for Stage B).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .placement import Placement
from .weighting import Piece, pieces

SMALL = 8  # tokens; a piece with fewer is not torn between two chunks


class Token(NamedTuple):
    """Id of a token in the vocabulary, and the weight of its piece."""

    id: int
    weight: float


Chunk = list[Token]


class TextTower:
    """A text tower with its tokenizer."""

    def __init__(self, network: nn.Module, tokenizer: Any, placement: Placement) -> None:
        """Join the parts.

        Args:
            network: a `TextEncoder`, settled by `placement`.
            tokenizer: CLIP's, of transformers.
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

    @property
    def length(self) -> int:
        """Tokens of a chunk, with start, end and padding."""
        config: Any = self.network.config
        return min(int(self.tokenizer.model_max_length), int(config.max_position_embeddings))

    def encode(self, prompts: str | Sequence[str], weighting: str = "comfy") -> Tensor:
        """Return the features (N, L, D) of prompts with the same number of chunks.

        Args:
            prompts: one or several.
            weighting: how weights are written, see `encode_each`.

        Raises:
            ValueError: if the numbers of chunks differ, or the weighting is not known.
        """
        features = self.encode_each(prompts, weighting)
        lengths = [one.shape[1] for one in features]
        if len(set(lengths)) > 1:
            raise ValueError(
                "prompts that are encoded together must have the same number of tokens with their "
                f"padding, got {', '.join(map(str, lengths))}; encode_each takes them all"
            )
        return torch.cat(features)

    @torch.no_grad()
    def encode_each(self, prompts: str | Sequence[str], weighting: str = "comfy") -> list[Tensor]:
        """Return the features (1, L, D) of each prompt, float32, on the CPU.

        A token of weight w has the features e + w (z - e), with its own z and those of the empty
        prompt at its place, e (as ComfyUI has them); of weight 1, z to the last bit.

        Args:
            prompts: one or several.
            weighting: how weights are written, one of `weighting.SYNTAXES`: "comfy", as in
                (word:1.3), "compel", as in word++, or "none".

        Raises:
            ValueError: if the weighting is not known.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        prompts_chunks = [self.chunks(pieces(prompt, weighting)) for prompt in prompts]
        chunks = [chunk for chunks in prompts_chunks for chunk in chunks]
        weights = self._weights(chunks)
        with self.placement.running(self.network, pack=False):
            features = self._read(chunks)
            if bool((weights != 1).any()):  # read alone: the other rows keep every bit
                empty = self._read([[]])
                weighted = (features - empty) * weights + empty
                features = torch.where(weights == 1, features, weighted)
        sizes = [len(chunks) for chunks in prompts_chunks]
        return [part.flatten(0, 1)[None] for part in torch.split(features, sizes)]

    def chunks(self, parts: Sequence[Piece]) -> list[Chunk]:
        """Return the tokens of a prompt in chunks of at most 75, without starts, ends and padding.

        Each piece is read for itself, and one of fewer than 8 tokens that does not fit into its
        chunk goes into the next whole: both as in ComfyUI.
        """
        room = self.length - self.tokenizer.num_special_tokens_to_add()
        found: list[Chunk] = [[]]
        for text, weight in parts:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            tokens = [Token(id, weight) for id in ids]
            if len(tokens) < SMALL and len(tokens) > room - len(found[-1]):
                found.append([])
            while tokens:
                if len(found[-1]) == room:
                    found.append([])
                free = room - len(found[-1])
                found[-1] += tokens[:free]
                tokens = tokens[free:]
        return found

    def _read(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return the features (M, 77, D) of chunks, float32, on the CPU.

        Padding attends only to the tokens of its chunk: without this mask its features would differ.
        """
        tokenizer, length = self.tokenizer, self.length
        rows = [
            [tokenizer.bos_token_id, *(token.id for token in chunk), tokenizer.eos_token_id]
            for chunk in chunks
        ]
        filled = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
        ids = torch.tensor(filled, device="cpu")
        mask = torch.tensor([[i < len(row) for i in range(length)] for row in rows], device="cpu")
        device = self.placement.device
        features: Tensor = self.network(ids.to(device), mask.to(device), self.placement.precision)
        return features.float().cpu()

    def _weights(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return the weights (M, 77, 1) of the tokens; those of start, end and padding are 1."""
        rows = [
            [1.0, *(token.weight for token in chunk), *[1.0] * (self.length - 1 - len(chunk))]
            for chunk in chunks
        ]
        return torch.tensor(rows, dtype=torch.float32, device="cpu")[:, :, None]
