"""The text encoder of CLIP: tokens -> their features, by a transformer that looks back only.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al. 2021,
section 2.4), in the sizes of OpenCLIP's bigG and H; module names and numbers as in transformers'
`CLIPTextModel`, which the published weights are written for.

Shapes: M chunks of text, L tokens of each, D features of a token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arithmetic import linear
from .layers import LayerNorm, split_heads


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Sizes of the network, by their names in config.json; the defaults are bigG, for Stage C.

    Raises:
        ValueError: if the heads do not divide the features, or another activation is asked for.
    """

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 20
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        heads = self.num_attention_heads
        if heads < 1 or self.hidden_size % heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size = {self.hidden_size}, got {heads}"
            )
        if self.hidden_act != "gelu":
            raise ValueError(f"hidden_act must be gelu, as published, got {self.hidden_act!r}")


class TextEncoder(nn.Module):
    """The network of a text tower."""

    def __init__(self, config: TextEncoderConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or TextEncoderConfig()
        d = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": ops.Embedding(config.vocab_size, d),
                "position_embedding": ops.Embedding(config.max_position_embeddings, d),
            }
        )
        layers = [EncoderLayer(config, ops) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = LayerNorm(d, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, mask: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the features (M, L, D) of all tokens, the last layer's after its norm.

        Args:
            ids: numbers of the tokens in the vocabulary, (M, L).
            mask: which of them are text, True, and which padding, False, (M, L). Padding attends to
                the text alone, text to itself and what is before it.
            dtype: what to compute in; None is the precision of the embeddings.
        """
        length = ids.shape[1]
        places = torch.arange(length, device=ids.device)
        x = self.embeddings["token_embedding"](ids)
        x = (x + self.embeddings["position_embedding"](places)).to(dtype or x.dtype)
        attn_mask = (places <= places[:, None]) & mask[:, None, None, :]
        layers: Any = self.encoder["layers"]
        for layer in layers:
            x = layer(x, attn_mask)
        features: Tensor = self.final_layer_norm(x)
        return features


class EncoderLayer(nn.Module):
    """Attention, then a two-layer perceptron, each on normed features and added to its input."""

    def __init__(self, config: TextEncoderConfig, ops: Any = nn) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(d, eps=eps)
        self.self_attn = SelfAttention(d, config.num_attention_heads, ops)
        self.layer_norm2 = LayerNorm(d, eps=eps)
        self.mlp = nn.ModuleDict(
            {
                "fc1": ops.Linear(d, config.intermediate_size),
                "fc2": ops.Linear(config.intermediate_size, d),
            }
        )

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """Return the layer's output, shape of `x` (M, L, D); `attn_mask` as for `SelfAttention`."""
        x = x + self.self_attn(self.layer_norm1(x), attn_mask)
        y = linear(self.mlp["fc1"], self.layer_norm2(x), activate=True)
        return linear(self.mlp["fc2"], y, plus=x)


class SelfAttention(nn.Module):
    """Multi-head attention of a text to itself."""

    def __init__(self, d: int, heads: int, ops: Any = nn) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = ops.Linear(d, d)
        self.k_proj = ops.Linear(d, d)
        self.v_proj = ops.Linear(d, d)
        self.out_proj = ops.Linear(d, d)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """Return the attended text, shape of `x` (M, L, D).

        `attn_mask` (M, 1, L, L) is True where a token, the row, attends to another, the column.
        """
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (split_heads(linear(layer, x), self.heads) for layer in layers)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return linear(self.out_proj, y.transpose(1, 2).flatten(2))
