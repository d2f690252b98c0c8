"""The one adapter to the host's model classes and its memory manager.

    Stage C, Stage B   MODEL   `diffusion_model`: our networks on the host's layers
    text towers        CLIP    `text_tower`: the host's own CLIP
    Stage A            VAE     `autoencoder`: the host's VAE around our network
    compressor         VAE     `semantic_encoder`: likewise
    sampling           LATENT  `sample`: the host's guider, our sampler or one of the host's
    LoRA                       `with_lora`: the package's reading, the host's patches

The host loads, casts, patches, offloads and frees the weights; nothing here moves any, and only on a
CPU a run keeps a packed copy.
"""

from .autoencoder import autoencoder, decode
from .compressor import encode_semantic, semantic_encoder
from .diffusion import diffusion_model
from .interpolation import latents_between, prompts_between
from .lora import with_lora
from .pictures import keep_pixels
from .placement import DIFFUSION_DTYPES, WEIGHT_DTYPES
from .sampling import (
    LARGEST_SEED,
    SPACINGS,
    chosen_sigmas,
    empty_semantic,
    sample,
    sample_vq,
    with_semantic,
)
from .towers import encode, encode_lines, text_tower

__all__ = [
    "DIFFUSION_DTYPES",
    "LARGEST_SEED",
    "SPACINGS",
    "WEIGHT_DTYPES",
    "autoencoder",
    "chosen_sigmas",
    "decode",
    "diffusion_model",
    "empty_semantic",
    "encode",
    "encode_lines",
    "encode_semantic",
    "keep_pixels",
    "latents_between",
    "prompts_between",
    "sample",
    "sample_vq",
    "semantic_encoder",
    "text_tower",
    "with_lora",
    "with_semantic",
]
