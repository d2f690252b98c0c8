"""The world of the bundled small model: plain shapes on plain backgrounds.

A `Scene` says what is seen, `draw` turns it into pixels, `wording.caption` into English. Some
combinations of colour, shape and background are held out of training, so that a picture of one of
them shows that the model composes what it knows instead of recalling it.

Pictures are `[H, W, 3]` uint8. Positions are in pixels, with 0 at the left or upper edge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 45),
    "orange": (242, 130, 20),
    "yellow": (250, 225, 60),
    "green": (30, 155, 70),
    "blue": (35, 85, 215),
    "purple": (140, 55, 165),
    "black": (20, 20, 22),
    "white": (246, 246, 244),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "centre")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "centre": (0, 0)}

RADIUS = {"small": 0.19, "large": 0.31}  # as a share of the picture's shorter side
SHIFT = {"small": 0.24, "large": 0.15}  # from the middle, as a share of the side it runs along
MARGIN = 0.02  # kept free at each edge, as a share of the shorter side
HOLE = 0.5  # of a ring, as a share of the radius

# For each colour on each background exactly one shape is held out, and the modulus takes turns.
HELD_OUT: frozenset[tuple[str, str, str]] = frozenset(
    (colour, SHAPES[(c + b) % len(SHAPES)], background)
    for c, colour in enumerate(COLOURS)
    for b, background in enumerate(COLOURS)
    if c != b
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape: `colour` of COLOURS, `shape` of SHAPES, `size` of SIZES, `place` of PLACES.

    Raises:
        ValueError: if a word is unknown.
    """

    colour: str
    shape: str
    size: str
    place: str

    def __post_init__(self) -> None:
        _check("colour", self.colour, COLOURS)
        _check("shape", self.shape, SHAPES)
        _check("size", self.size, SIZES)
        _check("place", self.place, PLACES)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One thing, or two small ones that face each other, on a `background` of COLOURS.

    Raises:
        ValueError: if the background is unknown, or things and background do not go together.
    """

    things: tuple[Thing, ...]
    background: str

    def __post_init__(self) -> None:
        _check("background", self.background, COLOURS)
        if len(self.things) not in (1, 2):
            raise ValueError(f"a scene must have 1 or 2 things, got {len(self.things)}")
        for thing in self.things:
            if thing.colour == self.background:
                raise ValueError(
                    f"a thing must differ from the background, got {thing.colour} on "
                    f"{self.background}; nobody would see it"
                )
        if len(self.things) == 2:
            _check_pair(*self.things)


def random_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Return a random scene for training, or with `held_out` one that training never shows.

    A quarter of the training scenes have two things; held-out scenes have one.
    """
    background = pick(rng, tuple(COLOURS))
    if held_out or rng.random() < 0.75:
        size, place = pick(rng, SIZES), pick(rng, PLACES)
        thing = _random_thing(rng, background, size, place, held_out=held_out)
        return Scene(things=(thing,), background=background)
    place = pick(rng, PLACES[:4])
    first = _random_thing(rng, background, "small", place, held_out=False)
    second = _random_thing(rng, background, "small", _opposite(place), held_out=False)
    while (first.colour, first.shape) == (second.colour, second.shape):
        second = _random_thing(rng, background, "small", _opposite(place), held_out=False)
    return Scene(things=(first, second), background=background)


def draw(scene: Scene, width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return the scene drawn with soft edges, (height, width, 3), RGB.

    `rng` moves and scales each thing a little.

    Raises:
        ValueError: if a side is below 16 pixels.
    """
    if min(width, height) < 16:
        raise ValueError(f"width and height must be at least 16 pixels, got {width} x {height}")
    picture = np.full((height, width, 3), COLOURS[scene.background], np.uint8)
    for thing in scene.things:
        radius, x, y = _position(thing, width, height, rng)
        half_x, half_y = (radius * half for half in HALF_BOX[thing.shape])
        left, top = int(x - half_x), int(y - half_y)
        window = picture[top : int(y + half_y) + 1, left : int(x + half_x) + 1]
        rows, columns = window.shape[:2]
        alpha = coverage(thing.shape, radius, x - left, y - top, columns, rows)[..., None]
        colour = np.array(COLOURS[thing.colour], np.float32)
        window[:] = window + alpha * (colour - window) + 0.5
    return picture


def coverage(
    shape: str, radius: float, x: float, y: float, width: int, height: int
) -> npt.NDArray[np.float32]:
    """How much of each pixel a shape with its centre at `x`, `y` covers.

    Returns:
        `[height, width]`, 0 outside to 1 inside, in steps of 1/16.
    """
    scale = 4
    image = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(image)
    # PIL rounds down and fills its outline too, hence the half.
    x, y, radius = x * scale, y * scale, radius * scale - 0.5
    if shape in OUTLINES:
        pen.polygon([(x + radius * u, y + radius * v) for u, v in OUTLINES[shape]], fill=255)
    else:
        _disc(pen, x, y, radius * HALF_BOX[shape][0], 255)
        if shape == "ring":
            _disc(pen, x, y, radius * HOLE, 0)
    shares: npt.NDArray[np.float32] = np.asarray(image.reduce(scale), np.float32) / np.float32(255)
    return shares


def _star() -> list[tuple[float, float]]:
    radii = (1.05, 0.5) * 5
    down = radii[0] * (1 - cos(pi / 5)) / 2  # the centre of the box, not of the circle
    return [(r * sin(k * pi / 5), down - r * cos(k * pi / 5)) for k, r in enumerate(radii)]


def _cross(reach: float, half_arm: float) -> list[tuple[float, float]]:
    quarter = [(-half_arm, -half_arm), (-half_arm, -reach), (half_arm, -reach)]
    turned = [(-v, u) for u, v in quarter]
    return quarter + turned + [(-u, -v) for u, v in quarter + turned]


# In units of the radius, around the centre of the bounding box, y down.
OUTLINES = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.9), (1.0, 0.9), (-1.0, 0.9)],
    "star": _star(),
    "cross": _cross(0.95, 0.33),
}
HALF_BOX = {"circle": (0.92, 0.92), "ring": (0.97, 0.97)} | {
    shape: (max(u for u, _ in points), max(v for _, v in points))
    for shape, points in OUTLINES.items()
}


def _position(
    thing: Thing, width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Radius and centre of a thing, jittered, inside the margin."""
    side = min(width, height)
    radius = RADIUS[thing.size] * side * rng.uniform(0.94, 1.06)
    centre = []
    for length, step, half in zip(
        (width, height), DIRECTIONS[thing.place], HALF_BOX[thing.shape], strict=True
    ):
        free = MARGIN * side + half * radius
        wanted = length * (0.5 + step * SHIFT[thing.size]) + side * rng.uniform(-0.025, 0.025)
        centre.append(min(max(wanted, free), length - free))
    return radius, centre[0], centre[1]


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _random_thing(
    rng: np.random.Generator, background: str, size: str, place: str, *, held_out: bool
) -> Thing:
    while True:
        colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
        if colour != background and ((colour, shape, background) in HELD_OUT) == held_out:
            return Thing(colour=colour, shape=shape, size=size, place=place)


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of the options at random."""
    return options[int(rng.integers(len(options)))]


def _opposite(place: str) -> str:
    return PLACES[PLACES.index(place) ^ 1]


def _check(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_pair(first: Thing, second: Thing) -> None:
    if "centre" in (first.place, second.place) or second.place != _opposite(first.place):
        raise ValueError(
            "two things must be left and right or top and bottom, "
            f"got {first.place} and {second.place}"
        )
    if (first.size, second.size) != ("small", "small"):
        raise ValueError(f"two things must both be small, got {first.size} and {second.size}")
    if (first.colour, first.shape) == (second.colour, second.shape):
        raise ValueError(
            f"two things must differ in colour or shape, got two of {first.colour} {first.shape}"
        )
