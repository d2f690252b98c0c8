"""What may be connected to what, and what to say where it may not."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...wuerstchen.sizes import VQ_PIXELS, vq_cells
from .towers import Tower

STAGE_B, STAGE_C = 4, 16  # channels of a latent
NAMES = {STAGE_B: "a Stage B latent (or the host's own)", STAGE_C: "a Stage C latent"}


def check_model(model: Any, network: type[Any], where: str) -> None:
    """Refuse a MODEL that is another network.

    Raises:
        ValueError: with what it is and what to connect.
    """
    found = getattr(getattr(model, "model", None), "diffusion_model", None)
    if not isinstance(found, network):
        wanted = network.label  # type: ignore[attr-defined]
        name = getattr(found, "label", type(found).__name__)
        raise ValueError(f"model must be {wanted}, got {name}; connect the MODEL of {where}")


def check_tower(clip: Any) -> Tower:
    """Return the network in Stage C's CLIP; refuse another CLIP.

    Raises:
        ValueError: with what to connect.
    """
    tower = getattr(getattr(clip, "cond_stage_model", None), "clip_g", None)
    network = getattr(tower, "transformer", None)
    if not isinstance(network, Tower):
        raise ValueError(
            "clip must be Stage C's text encoder, got another one; connect the CLIP of Würstchen "
            "Load Prior"
        )
    return network


def check_patches(options: dict[str, Any]) -> None:
    """Refuse patches of a U-Net's blocks: here is none that they would change.

    Raises:
        ValueError: with what to remove.
    """
    patches = {**options.get("patches", {}), **options.get("patches_replace", {})}
    if names := sorted(name for name, given in patches.items() if given):
        raise ValueError(
            f"model must have no patches of a U-Net's blocks, got some ({', '.join(names)}), for which "
            "Würstchen has no place; remove the node before the sampler"
        )


def check_pictures(**pictures: Tensor) -> None:
    """Refuse pictures and masks, each (N or 1, H, W, channels), that differ in size or in number.

    Raises:
        ValueError: with both names and sizes.
    """
    (name, first), *others = pictures.items()
    for other, picture in others:
        wanted, found = ([*one.shape[2:0:-1]] for one in (first, picture))
        if wanted != found:
            raise ValueError(
                f"{other} must be of the size of {name}, {wanted[0]}×{wanted[1]}, got "
                f"{found[0]}×{found[1]}; scale or pad it"
            )
        if len(picture) not in (1, len(first)):
            raise ValueError(
                f"{other} must be one for all or one for each of {name}, got {len(picture)} for "
                f"{len(first)}"
            )


def check_channels(latent: Tensor, channels: int, advice: str) -> None:
    """Refuse a latent of another stage.

    Raises:
        ValueError: with what it is and what to connect.
    """
    if latent.ndim != 4 or latent.shape[1] != channels:
        shape = list(latent.shape)
        what = NAMES.get(shape[1], "another model's latent") if latent.ndim == 4 else "no picture's"
        raise ValueError(f"the latent must have {channels} channels, got {shape}, {what}; {advice}")


def check_stage_c_latent(latent: Tensor) -> None:
    """Refuse a latent that is not Stage C's.

    Raises:
        ValueError: as `check_channels`.
    """
    check_channels(latent, STAGE_C, "connect the output of Würstchen Stage C Sampler")


def check_text(text: Tensor | None, width: int, loader: str) -> None:
    """Refuse features of another text tower.

    Raises:
        ValueError: with both widths and what to connect.
    """
    found = None if text is None else text.shape[-1]
    if found != width:
        raise ValueError(
            f"the conditioning must have {width} features per token, got {found}; encode the text "
            f"with the CLIP of {loader}"
        )


def check_semantic(semantic: Tensor | None, latent: Tensor, prompt_type: Any) -> None:
    """Refuse a run of Stage B without a Stage C latent, or with one of another size.

    Raises:
        ValueError: with what to connect.
    """
    if semantic is None and prompt_type == "positive":
        raise ValueError(
            "the positive conditioning of Stage B holds no Stage C latent; put Würstchen Stage B "
            "Conditioning before the sampler, or use Würstchen Stage B Decode"
        )
    if semantic is None:
        return
    check_stage_c_latent(semantic)
    wanted, found = [vq_cells(side) for side in semantic.shape[2:]], list(latent.shape[2:])
    if found != wanted:
        height, width = (side * VQ_PIXELS for side in wanted)
        raise ValueError(
            f"the latent of Stage B must have {wanted} rows and columns for this Stage C latent, "
            f"got {found}; connect the stage_b of StableCascade_EmptyLatentImage with width "
            f"{width} and height {height}, or use Würstchen Stage B Decode"
        )


def check_area(area: Sequence[int] | None, sides: tuple[int, int]) -> None:
    """Refuse a conditioning for an area beyond the latent: rows, columns, first row, first column.

    Raises:
        ValueError: with both and what to use.
    """
    if area is None:
        return
    rows, columns, top, left = area
    if top < sides[0] and left < sides[1] and rows <= sides[0] and columns <= sides[1]:
        return
    raise ValueError(
        f"the area of a conditioning has {rows} rows and {columns} columns from row {top}, column "
        f"{left}, the latent {sides[0]} rows and {sides[1]} columns; the host counts 8 pixels per "
        "cell, so give the area in shares, with ConditioningSetAreaPercentage, and let it begin at "
        "least one cell before the edge"
    )
