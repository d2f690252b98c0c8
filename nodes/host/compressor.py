"""The compressor as VAE: it makes Stage C latents of pictures, by the host's own encoder too."""

from typing import Any, cast

import torch
from torch import Tensor

from ...wuerstchen.allocator import kept_memory
from ...wuerstchen.canvas import bordered
from ...wuerstchen.checkpoints.loading import load_network
from ...wuerstchen.compressor import Compressor, prepare_pixels
from .autoencoder import vae_around
from .checks import check_pictures
from .pictures import as_pictures
from .placement import placement_for
from .sizes import sized

BLOCK = 128  # pixels along each side; the host crops pictures to whole ones
BYTES = 96  # per pixel that are alive at once, about, in every precision: norms are in float32


class HostedCompressor(Compressor):
    """The compressor as the host calls a VAE's network."""

    def encode(self, prepared: Tensor) -> Tensor:
        """Return the semantic latent (N, 16, h, w), 42 z - 1."""
        with kept_memory(prepared.device):
            return cast(Tensor, self(prepared))

    def decode(self, latent: Tensor) -> Tensor:
        """Refuse.

        Raises:
            ValueError: with what decodes.
        """
        raise ValueError(
            "the compressor only encodes; a Stage C latent becomes a picture by Würstchen Stage B "
            "Decode and Würstchen Stage A Decode"
        )


def semantic_encoder(source: str, weight_dtype: str) -> Any:
    """Return the VAE of the compressor in the file `source`.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    placement = placement_for(weight_dtype)
    network = load_network(source, "compressor", placement, HostedCompressor)
    vae = vae_around(network, placement.precision)
    vae.process_input = whole_pixels
    vae.latent_channels, vae.output_channels = network.config.c_latent, 3
    vae.upscale_ratio = vae.downscale_ratio = BLOCK
    vae.memory_used_encode = lambda shape, kind: shape[2] * shape[3] * BYTES
    vae.encode_tiled = vae.encode_tiled_ = refuse_tiles
    return vae


def whole_pixels(pixels: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W) in [0, 1], cut to whole blocks by the host, as the network sees them.

    Raises:
        ValueError: if nothing was left of a side.
    """
    if 0 in pixels.shape:
        raise ValueError("a picture must have at least 128 pixels on each side; scale it up")
    return prepare_pixels(pixels)


def refuse_tiles(*_: Any, **__: Any) -> Tensor:
    """Refuse to encode piece by piece, as the host does when its memory is short.

    Raises:
        ValueError: with what to do.
    """
    raise ValueError(
        "the compressor sees a picture as a whole, and there is too little memory for this one (or "
        "it was to be encoded in tiles); scale the picture down first"
    )


def encode_semantic(vae: Any, image: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """Return the Stage C latent of pictures, on whole blocks with a border around.

    Args:
        vae: from `semantic_encoder`.
        image: (N, H, W, 3) in [0, 1]; H and W from 128.
        mask: (N or 1, H, W), 1 where a picture is painted anew.

    Raises:
        ValueError: if the VAE is another one, a side is below 128, or the mask has another size.
    """
    if not isinstance(vae.first_stage_model, Compressor):
        raise ValueError("vae must be the compressor; connect the VAE of Würstchen Load Compressor")
    pixels = image[..., :3].movedim(-1, 1)
    anew = torch.ones_like(image[..., :1]) if mask is None else as_pictures(mask).to(image)
    check_pictures(image=image, mask=anew)
    canvas = bordered(pixels, anew.movedim(-1, 1))
    samples = vae.encode(canvas.pixels.movedim(1, -1))
    latent = sized({"samples": samples}, canvas.size)
    if mask is not None:
        latent["noise_mask"] = canvas.cells(*samples.shape[2:])
    return latent
