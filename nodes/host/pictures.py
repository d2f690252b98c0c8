"""What becomes of pictures outside of the models."""

from torch import Tensor

from ...wuerstchen.canvas import feathered
from .checks import check_pictures


def as_pictures(mask: Tensor) -> Tensor:
    """Return a MASK (N, H, W) or (H, W) as pictures (N, H, W, 1)."""
    return mask.reshape(-1, *mask.shape[-2:], 1)


def keep_pixels(painted: Tensor, original: Tensor, mask: Tensor, feather: int) -> Tensor:
    """Return `painted` with the pixels of `original` outside the mask, to the last bit.

    Args:
        painted: (N, H, W, 3) in [0, 1].
        original: (N or 1, H, W, 3) in [0, 1].
        mask: (N or 1, H, W), 1 where a picture was painted anew.
        feather: pixels within the mask along which painted ones take over.

    Raises:
        ValueError: if they differ in size, or in number.
    """
    anew = as_pictures(mask).to(painted)
    check_pictures(painted=painted, original=original, mask=anew)
    weight = feathered(anew.movedim(-1, 1), feather).movedim(1, -1)
    return original[..., :3].to(painted).lerp(painted[..., :3], weight)
