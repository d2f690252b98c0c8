"""Reading a picture of the shape world back, by rules and without any network.

The judge tells how well the small model follows its prompts. It finds the biggest object, then
lays the drawing code's own six shapes over it. It excuses nothing: a blob is read as whichever
shape fits best, and `Verdict.fit` says how badly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .shapes import COLOURS, HALF_BOX, RADIUS, SHAPES, SHIFT, Scene, coverage

Mask = npt.NDArray[np.bool_]
Colours = npt.NDArray[np.float32]

TRAITS = ("colour", "background", "shape", "size", "place")
SMALLEST = 0.005  # of the square of the shorter side; anything below is a speck, not an object
PALETTE: Colours = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge sees, in the words of `shapes`; `fit` is the best overlap (IoU), 0 to 1."""

    colour: str
    shape: str
    size: str
    place: str
    background: str
    fit: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many of `pictures` had each trait right, and how many had all of them right."""

    pictures: int = 0
    colour: int = 0
    background: int = 0
    shape: int = 0
    size: int = 0
    place: int = 0
    everything: int = 0

    def plus(self, agreement: dict[str, bool]) -> "Score":
        """Return the score with one more picture, from what `agree` returned."""
        return Score(
            pictures=self.pictures + 1,
            everything=self.everything + all(agreement.values()),
            **{trait: getattr(self, trait) + agreement[trait] for trait in TRAITS},
        )

    def rates(self) -> dict[str, float]:
        """Return each count as a share of the pictures, 0 to 1; all 0 before the first picture."""
        names = (*TRAITS, "everything")
        return {name: getattr(self, name) / max(self.pictures, 1) for name in names}


def judge(pixels: npt.NDArray[np.uint8]) -> Verdict | None:
    """Describe the biggest object, or return None where there is none.

    Args:
        pixels: (H, W, 3), RGB, at least 16 pixels a side.

    Raises:
        ValueError: if the array is no such picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 16:
        raise ValueError(f"pixels must be [H, W, 3] with sides from 16, got {list(pixels.shape)}")
    picture = pixels.astype(np.float32)
    ground = _border_median(picture)
    background = _nearest(ground)
    found = _find_object(picture, ground, background)
    if found is None:
        return None
    mask, tone = found
    height, width = mask.shape
    left, right = _ends(mask, axis=1)
    top, bottom = _ends(mask, axis=0)
    shape, fit = _best_shape(mask[top:bottom, left:right])
    radius = _box_radius(shape, right - left, bottom - top) / min(width, height)
    size = "large" if radius > (RADIUS["small"] + RADIUS["large"]) / 2 else "small"
    across = ((left + right) / 2 / width - 0.5) / SHIFT[size]
    down = ((top + bottom) / 2 / height - 0.5) / SHIFT[size]
    return Verdict(
        colour=_nearest(tone),
        shape=shape,
        size=size,
        place=_place(across, down),
        background=background,
        fit=fit,
    )


def agree(scene: Scene, verdict: Verdict | None) -> dict[str, bool]:
    """Compare each of TRAITS with the first thing of the scene; without a verdict all differ."""
    thing = scene.things[0]
    wanted = {
        "colour": thing.colour,
        "background": scene.background,
        "shape": thing.shape,
        "size": thing.size,
        "place": thing.place,
    }
    return {trait: getattr(verdict, trait, None) == word for trait, word in wanted.items()}


def _find_object(picture: Colours, ground: Colours, background: str) -> tuple[Mask, Colours] | None:
    """Return mask and colour of the biggest part that is not background.

    The first mask takes whatever is half-way to the nearest other colour. That reaches too far
    out at soft edges, so the second one lies half-way between the two colours that were found.
    """
    others = [colour for name, colour in zip(COLOURS, PALETTE, strict=True) if name != background]
    reach = min(float(np.linalg.norm(colour - ground)) for colour in others) / 2
    smallest = SMALLEST * min(picture.shape[:2]) ** 2
    mask = _biggest_part(np.linalg.norm(picture - ground, axis=2) > reach)
    if mask.sum() < smallest:
        return None
    tone: Colours = np.median(picture[_interior(mask)], axis=0).astype(np.float32)
    step = tone - ground
    mask = _biggest_part(mask & ((picture - ground) @ step > 0.5 * float(step @ step)))
    return (mask, tone) if mask.sum() >= smallest else None


def _best_shape(mask: Mask) -> tuple[str, float]:
    """Return the shape that overlaps best with a mask cut to its box `[height, width]`, and its IoU."""
    height, width = mask.shape
    free = 2 + max(height, width) // 8
    mask = np.pad(mask, free)
    best = ("", -1.0)
    for shape in SHAPES:
        for radius, x, y in _guesses(_box_radius(shape, width, height)):
            x, y = x + free + width / 2, y + free + height / 2
            ideal = coverage(shape, radius, x, y, mask.shape[1], mask.shape[0]) > 0.5
            overlap = float((mask & ideal).sum() / (mask | ideal).sum())
            best = max(best, (shape, overlap), key=lambda pair: pair[1])
    return best


def _guesses(radius: float) -> Iterator[tuple[float, float, float]]:
    """Yield radii and shifts near the box's own; blur and noise move the box a little."""
    step = 0.04 * radius
    for factor in (0.95, 1.0, 1.05):
        for x, y in ((0.0, 0.0), (-step, 0.0), (step, 0.0), (0.0, -step), (0.0, step)):
            yield factor * radius, x, y


def _box_radius(shape: str, width: int, height: int) -> float:
    return (width + height) / (2 * sum(HALF_BOX[shape]))


def _place(across: float, down: float) -> str:
    """Return the side that a thing has moved to, from its shifts in units of the expected shift."""
    if max(abs(across), abs(down)) < 0.5:
        return "centre"
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"


def _biggest_part(mask: Mask) -> Mask:
    """Return the largest part of a mask that hangs together over pixel edges.

    Runs of pixels in a row are numbered, and runs that touch in neighbouring rows are joined.
    """
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    runs = np.cumsum(mask & ~before).reshape(mask.shape)
    runs[~mask] = 0
    root = list(range(int(runs.max()) + 1))

    def find(run: int) -> int:
        while root[run] != run:
            root[run] = run = root[root[run]]
        return run

    touching = mask[1:] & mask[:-1]
    for above, below in np.unique(np.stack([runs[:-1][touching], runs[1:][touching]], 1), axis=0):
        root[find(int(below))] = find(int(above))
    labels = np.array([find(run) for run in range(len(root))])[runs]
    sizes = np.bincount(labels[mask], minlength=1)
    biggest: Mask = mask & (labels == sizes.argmax())
    return biggest


def _interior(mask: Mask) -> Mask:
    """Return the mask without its outermost two pixels, or all of it if nothing would be left."""
    inner = mask
    for _ in range(2):
        wide = np.pad(inner, 1)
        inner = inner & wide[2:, 1:-1] & wide[:-2, 1:-1] & wide[1:-1, 2:] & wide[1:-1, :-2]
    return inner if inner.any() else mask


def _border_median(picture: Colours) -> Colours:
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    median: Colours = np.median(np.concatenate(edges), axis=0).astype(np.float32)
    return median


def _nearest(colour: Colours) -> str:
    return list(COLOURS)[int(np.linalg.norm(PALETTE - colour, axis=1).argmin())]


def _ends(mask: Mask, axis: int) -> tuple[int, int]:
    """Return the first and one past the last position along an axis where the mask is true."""
    positions = np.nonzero(mask)[axis]
    return int(positions.min()), int(positions.max()) + 1
