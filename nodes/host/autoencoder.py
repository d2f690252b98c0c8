"""Stage A as VAE: the host's own class around our network.

The host's class is made with the smallest network it knows, so that every attribute a version of
the host may ask for is there; then it is given ours.
"""

from typing import Any, cast

import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor

from ...wuerstchen.allocator import kept_memory
from ...wuerstchen.checkpoints.loading import load_network
from ...wuerstchen.checks import check_whole
from ...wuerstchen.sizes import SMALLEST_TILE
from ...wuerstchen.stage_a import StageA
from ...wuerstchen.tiling import decode_tiled
from .checks import check_channels
from .placement import SUPPORTED, placement_for
from .sizes import cropped

SMALLEST = "pixel_space_vae"
COPIES = 12  # numbers per latent cell and channel that are alive at once, about


class HostedStageA(StageA):
    """Stage A as the host calls a VAE's network."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the Stage B latent of pixels, as the host crops them."""
        with kept_memory(pixels.device):
            return super().encode(pixels)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the pixels of a Stage B latent; refuse another."""
        advice = "put Würstchen Stage B Decode before it"
        check_channels(latent, self.config.latent_channels, advice)
        with kept_memory(latent.device):
            return super().decode(latent)


def autoencoder(source: str, weight_dtype: str) -> Any:
    """Return the VAE of Stage A in the file `source`; its latents are in Stage B's units.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    placement = placement_for(weight_dtype)
    network = cast(StageA, load_network(source, "stage_a", placement, HostedStageA))
    vae, config = vae_around(network, placement.precision), network.config
    vae.latent_channels, vae.output_channels = config.latent_channels, config.out_channels
    vae.upscale_ratio = vae.downscale_ratio = config.downscale
    vae.process_input = lambda pixels: pixels
    vae.process_output = lambda pixels: pixels.clamp_(0, 1)  # newer hosts want it in place
    alive = COPIES * config.embed_dim
    vae.memory_used_decode = lambda shape, kind: shape[2] * shape[3] * alive * kind.itemsize
    vae.memory_used_encode = lambda shape, kind: shape[2] * shape[3] * alive * kind.itemsize / 16
    return vae


def vae_around(network: Any, dtype: torch.dtype) -> Any:
    """Return the host's VAE with `network` in it, which rests where the host wants it."""
    vae, offload = comfy.sd.VAE(sd={SMALLEST: torch.tensor(1.0)}), management.vae_offload_device()
    vae.first_stage_model, vae.vae_dtype, vae.working_dtypes = network, dtype, SUPPORTED
    vae.patcher = comfy.model_patcher.ModelPatcher(network.to(offload), vae.device, offload)
    return vae


def decode(vae: Any, latent: dict[str, Any], tile: int) -> Tensor:
    """Return pixels (N, H, W, 3) in [0, 1], at once or in tiles of `tile` pixels (0 = at once).

    Tiles have the pixels of the whole, to float tolerance. H and W are those that the latent is for.

    Raises:
        ValueError: if the VAE is not Stage A, the latent is not Stage B's, or `tile` is below
            `SMALLEST_TILE` and not 0.
    """
    if not isinstance(vae.first_stage_model, StageA):
        raise ValueError("vae must be Stage A; connect the VAE of Würstchen Load Decoder")
    samples = latent["samples"]
    check_channels(samples, vae.latent_channels, "connect the output of Würstchen Stage B Decode")
    if tile == 0:
        return cropped(vae.decode(samples), latent)
    check_whole("tile_size", tile, SMALLEST_TILE)
    room = vae.memory_used_decode((1, 4, *2 * (tile // vae.downscale_ratio,)), vae.vae_dtype)
    management.load_models_gpu([vae.patcher], memory_required=room)
    network, rows = Interruptible(vae.first_stage_model), samples.to(vae.device, vae.vae_dtype)
    pixels = torch.cat([decode_tiled(network, row, tile) for row in rows.split(1)])
    decoded = vae.process_output(pixels.to(management.intermediate_device(), torch.float32))
    return cropped(decoded.movedim(1, -1), latent)


class Interruptible:
    """Stage A that stops before a tile if the user has interrupted the run."""

    def __init__(self, network: StageA) -> None:
        self.config, self.network = network.config, network

    def decode(self, latent: Tensor) -> Tensor:
        """Return the pixels of a tile."""
        management.throw_exception_if_processing_interrupted()
        return self.network.decode(latent)
