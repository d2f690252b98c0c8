"""The one adapter to the host's model classes and its memory manager.

    Stage C, Stage B   MODEL   `diffusion_model`: our networks on the host's layers
    text towers        CLIP    `text_tower`: the host's own CLIP
    Stage A            VAE     `autoencoder`: the host's VAE around our network
    sampling           LATENT  `sample`: the host's guider, our sampler or one of the host's

The host loads, casts, patches, offloads and frees the weights; nothing here moves or keeps any.
"""

from .autoencoder import autoencoder, decode
from .diffusion import diffusion_model
from .placement import WEIGHT_DTYPES
from .sampling import LARGEST_SEED, chosen_sigmas, empty_semantic, sample, sample_vq, with_semantic
from .towers import encode, text_tower

__all__ = [
    "LARGEST_SEED",
    "WEIGHT_DTYPES",
    "autoencoder",
    "chosen_sigmas",
    "decode",
    "diffusion_model",
    "empty_semantic",
    "encode",
    "sample",
    "sample_vq",
    "text_tower",
    "with_semantic",
]
