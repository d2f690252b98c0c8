"""Würstchen v2 for PyTorch: a prompt becomes a picture in three stages.

    from wuerstchen import Wuerstchen

    Wuerstchen.load().paint("a large red circle on a blue background", seed=1)[0].save("circle.png")

A diffusion model that works in a very small latent is cheap to train and to run. Würstchen (Pernias
et al. 2023, arXiv:2306.00637) therefore paints a picture as a latent that is 42 times smaller along
each side, and lets a second diffusion model and an autoencoder find the details:

    prompt ─text towers→ features ─Stage C→ semantic latent ─Stage B→ VQ latent ─Stage A→ pixels

Glossary:
    text tower       CLIP's text encoder; one for Stage C and one for Stage B
    features         what a text tower makes of a prompt: 77 tokens (or more chunks of 77) of D numbers each
    Stage C, prior   diffusion model from features to a semantic latent
    semantic latent  16 numbers for each 42.67×42.67 pixels; Stage B takes it as 42 z - 1 ("effnet")
    Stage B, decoder diffusion model from a semantic latent and features to a VQ latent
    VQ latent        4 numbers for each 4×4 pixels
    Stage A          autoencoder (VQGAN) between VQ latent and pixels
    compressor       pixels to semantic latent, for training and for pictures as input
    guidance         leads a sample towards the prompt and away from the negative prompt; 1 is none
    placement        where a network runs, in which precision, who moves it
    published        as in the repositories `warp-ai/wuerstchen-prior` and `warp-ai/wuerstchen`

Reading order: `pipeline` and `stages` tell the whole story, then `stage_c`, `stage_b`, `stage_a`,
the blocks in `layers` and their products in `arithmetic`, the diffusion in `sampling`, then `text`
and `text_encoder`, `settings`, `placement`, `checkpoints`, `compressor`.

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .canvas import to_images
    from .checkpoints import CheckpointError, load_network
    from .compressor import Compressor, CompressorConfig
    from .interpolation import between, slerp
    from .pipeline import Wuerstchen
    from .placement import Placement, place
    from .sampling import generators
    from .settings import Settings, cells
    from .stage_a import StageA, StageAConfig
    from .stage_b import StageB, StageBConfig
    from .stage_c import StageC, StageCConfig
    from .stages import Texts
    from .text import TextTower
    from .text_encoder import TextEncoder, TextEncoderConfig
    from .towers import load_text_tower

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Compressor",
    "CompressorConfig",
    "Placement",
    "Settings",
    "StageA",
    "StageAConfig",
    "StageB",
    "StageBConfig",
    "StageC",
    "StageCConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "TextTower",
    "Texts",
    "Wuerstchen",
    "between",
    "cells",
    "generators",
    "load_network",
    "load_text_tower",
    "place",
    "slerp",
    "to_images",
]

ROOMS = {
    "canvas": ("to_images",),
    "checkpoints": ("CheckpointError", "load_network"),
    "compressor": ("Compressor", "CompressorConfig"),
    "interpolation": ("between", "slerp"),
    "pipeline": ("Wuerstchen",),
    "placement": ("Placement", "place"),
    "sampling": ("generators",),
    "settings": ("Settings", "cells"),
    "stage_a": ("StageA", "StageAConfig"),
    "stage_b": ("StageB", "StageBConfig"),
    "stage_c": ("StageC", "StageCConfig"),
    "stages": ("Texts",),
    "text": ("TextTower",),
    "text_encoder": ("TextEncoder", "TextEncoderConfig"),
    "towers": ("load_text_tower",),
}


if not TYPE_CHECKING:  # type checkers know all names from above

    def __getattr__(name: str) -> Any:
        for room, names in ROOMS.items():
            if name in names:
                return getattr(import_module(f".{room}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
