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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints.files import CheckpointError as CheckpointError
    from .checkpoints.loading import load_network as load_network
    from .compressor import Compressor as Compressor, CompressorConfig as CompressorConfig
    from .interpolation import interpolate as interpolate, slerp as slerp
    from .pipeline import Wuerstchen as Wuerstchen
    from .pixels import to_images as to_images
    from .placement import Placement as Placement, place as place
    from .sampling import generators as generators
    from .settings import Settings as Settings
    from .sizes import cells as cells
    from .stage_a import StageA as StageA, StageAConfig as StageAConfig
    from .stage_b import StageB as StageB, StageBConfig as StageBConfig
    from .stage_c import StageC as StageC, StageCConfig as StageCConfig
    from .stages import TextFeatures as TextFeatures
    from .text import TextTower as TextTower
    from .text_encoder import TextEncoder as TextEncoder, TextEncoderConfig as TextEncoderConfig
    from .towers import load_text_tower as load_text_tower
else:
    NAMES = {
        "checkpoints.files": ("CheckpointError",),
        "checkpoints.loading": ("load_network",),
        "compressor": ("Compressor", "CompressorConfig"),
        "interpolation": ("interpolate", "slerp"),
        "pipeline": ("Wuerstchen",),
        "pixels": ("to_images",),
        "placement": ("Placement", "place"),
        "sampling": ("generators",),
        "settings": ("Settings",),
        "sizes": ("cells",),
        "stage_a": ("StageA", "StageAConfig"),
        "stage_b": ("StageB", "StageBConfig"),
        "stage_c": ("StageC", "StageCConfig"),
        "stages": ("TextFeatures",),
        "text": ("TextTower",),
        "text_encoder": ("TextEncoder", "TextEncoderConfig"),
        "towers": ("load_text_tower",),
    }
    ROOMS = {name: room for room, names in NAMES.items() for name in names}
    __all__ = list(ROOMS)

    def __getattr__(name: str) -> Any:
        if name in ROOMS:
            return getattr(import_module(f".{ROOMS[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
