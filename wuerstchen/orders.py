"""Orders: what is asked of a model, image by image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from torch import Tensor

from .canvas import Canvas
from .checks import check_text
from .interpolation import slerp
from .sampling import LATENT_SHIFT
from .settings import Settings
from .stages import TextFeatures


class Order(NamedTuple):
    """One image to paint.

    Attributes:
        text: features of its prompt.
        negative: features of what to lead away from.
        settings: of this image alone, with its size.
        canvas: the picture to paint over, if there is one.
        semantic: the semantic latent to paint over, (1, 16, h, w), if there is one.
    """

    text: TextFeatures
    negative: TextFeatures
    settings: Settings
    canvas: Canvas | None
    semantic: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        left, top, right, bottom = self.settings.outpaint
        width, height = cast(int, self.settings.width), cast(int, self.settings.height)
        return width + left + right, height + top + bottom

    @property
    def shapes(self) -> tuple[Any, ...]:
        """The shape of its canvas, if it has one, and the lengths of its texts."""
        canvas = None if self.canvas is None else self.canvas.pixels.shape
        return canvas, *(part.shape[1] for texts in (self.text, self.negative) for part in texts)

    @property
    def batch_key(self) -> Any:
        """What the images that are painted at once have in common."""
        s = replace(self.settings, negative="", seed=0, decoder_seed=None)
        s = replace(s, image=None, mask=None, strength=None, outpaint=(0, 0, 0, 0))
        return s, self.settings.effective_strength, self.shapes


def mixed(start: Order, end: Order, share: float) -> Order:
    """Return the order at `share` of the way between two."""
    parts = [(start.text, end.text), (start.negative, end.negative)]
    texts = [
        TextFeatures(*(slerp(a, b, share) for a, b in zip(*pair, strict=True))) for pair in parts
    ]
    semantic = start.semantic
    if semantic is not None and end.semantic is not None:
        semantic = slerp(semantic, end.semantic, share, dims=3, centre=-LATENT_SHIFT)
    return Order(texts[0], texts[1], start.settings, start.canvas, semantic)


def paired(
    prompts: str | Sequence[str],
    settings: Settings | Sequence[Settings] | None,
    changes: dict[str, Any],
) -> list[tuple[str, Settings]]:
    """Return each prompt with its settings.

    Raises:
        ValueError: if there is no prompt, one is no text, or a setting is out of its range.
    """
    if settings is None or isinstance(settings, Settings):
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        settings = [settings or Settings()] * len(prompts)
    prompts = [prompts] * len(settings) if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("at least one prompt is needed, got none")
    if len(settings) != len(prompts):
        raise ValueError(f"one setting per prompt, got {len(settings)} for {len(prompts)}")
    for prompt in prompts:
        check_text("a prompt", prompt)
    return [(prompt, replace(s, **changes)) for prompt, s in zip(prompts, settings, strict=True)]
