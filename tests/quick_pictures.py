"""Quick pictures of the tiny model: prompts, settings, and how far two pictures are apart."""

from PIL.Image import Image

from wuerstchen import Settings

from .peers import levels

PROMPT, OTHER, NEGATIVE = "a large red circle on a blue background", "a green star", "blue"
QUICK = Settings(width=128, height=128, steps=3, decoder_steps=2)


def difference(image: Image, other: Image) -> int:
    """The largest difference of a level in 0 to 255."""
    assert image.size == other.size
    return int(abs(levels(image) - levels(other)).max())
