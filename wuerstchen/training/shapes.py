"""The world of the bundled small model: plain shapes on plain backgrounds, drawn and put in words.

A `Scene` says what is seen, `draw` turns it into pixels and `caption` into one of many English
wordings. What a caption leaves out has its default: the place is the centre, the size is large.
Some combinations of colour, shape and background are held out of training, so that a picture of
one of them shows that the model composes what it knows instead of recalling it.

Pictures are `[H, W, 3]` uint8. Positions are in pixels, with 0 at the left or upper edge.
"""

import re
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
    """One shape: `colour` of COLOURS, `shape` of SHAPES, `size` of SIZES, `place` of PLACES."""

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
    """One thing, or two small ones that face each other, on a `background` of COLOURS."""

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
    """Draws a scene for training, or with `held_out` one that training never shows.

    A quarter of the training scenes have two things; held-out scenes have one.
    """
    background = _pick(rng, tuple(COLOURS))
    if held_out or rng.random() < 0.75:
        size, place = _pick(rng, SIZES), _pick(rng, PLACES)
        thing = _random_thing(rng, background, size, place, held_out=held_out)
        return Scene(things=(thing,), background=background)
    place = _pick(rng, PLACES[:4])
    first = _random_thing(rng, background, "small", place, held_out=False)
    second = _random_thing(rng, background, "small", _opposite(place), held_out=False)
    while (first.colour, first.shape) == (second.colour, second.shape):
        second = _random_thing(rng, background, "small", _opposite(place), held_out=False)
    return Scene(things=(first, second), background=background)


def is_held_out(scene: Scene) -> bool:
    """Says whether any thing of the scene is a combination that training must not show."""
    return any((t.colour, t.shape, scene.background) in HELD_OUT for t in scene.things)


def draw(scene: Scene, width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws the scene with soft edges; `rng` moves and scales each thing a little.

    Returns:
        `[height, width, 3]`, RGB.

    Raises:
        ValueError: a side is below 16 pixels.
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


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Words the scene in one of many ways.

    Colour, shape and background are always named. A large size and the place in the centre are
    left out half of the time. Two things have both places named and, being small, not always
    their size.
    """
    things = scene.things
    if len(things) == 1:
        slots = _slots(things[0], rng, "")
        text = _pick(rng, ONE_THING)
    else:
        order = rng.permutation(2)
        slots = _slots(things[order[0]], rng, "1") | _slots(things[order[1]], rng, "2")
        text = _pick(rng, TWO_THINGS)
    text = _tidy(text.format(opening=_pick(rng, OPENINGS), background=scene.background, **slots))
    text = text.capitalize() if rng.random() < 0.4 else text
    return text + "." if rng.random() < 0.25 else text


def plain_caption(scene: Scene) -> str:
    """Words the scene in the plainest way, as in "a large red circle on a blue background"."""
    parts = []
    for thing in scene.things:
        place = "" if thing.place == "centre" else f" at the {thing.place}"
        parts.append(f"a {thing.size} {thing.colour} {thing.shape}{place}")
    return _tidy(f"{' and '.join(parts)} on a {scene.background} background")


SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
PLACE_WORDS = {
    "left": ("on the left", "at the left", "on the left side", "to the left"),
    "right": ("on the right", "at the right", "on the right side", "to the right"),
    "top": ("at the top", "near the top", "at the top of the picture"),
    "bottom": ("at the bottom", "near the bottom", "at the bottom of the picture"),
    "centre": ("in the centre", "in the center", "in the middle", "at the centre"),
}
OPENINGS = ("a picture of", "an image of", "a drawing of", "draw", "show", "paint", "there is", "")
ONE_THING = (
    "{opening} a {thing} {place} on a {background} background",
    "{opening} a {thing} on a {background} background, {place}",
    "{opening} a {thing} {place}, {background} background",
    "{opening} a {thing} {place}, the background is {background}",
    "{opening} a {thing} {place} in front of a {background} background",
    "{opening} a {background} background with a {thing} {place}",
    "on a {background} background, a {thing} {place}",
    "on a {background} background there is a {thing} {place}",
    "{background} background, {thing} {place}",
    "{thing} {place}, {background} background",
    "{thing} {place} on {background}",
    "{place}, a {thing} on a {background} background",
    "{opening} one {size} {shape} {place}, coloured {colour}, on a {background} background",
    "the {size} {shape} {place} is {colour} and the background is {background}",
    "the background is {background}, the {size} {shape} {place} is {colour}",
)
TWO_THINGS = (
    "{opening} a {thing1} {place1} and a {thing2} {place2} on a {background} background",
    "{opening} a {thing1} {place1} and a {thing2} {place2}, {background} background",
    "{opening} a {thing1} {place1} and a {thing2} {place2}, the background is {background}",
    "on a {background} background, a {thing1} {place1} and a {thing2} {place2}",
    "{place1} a {thing1}, {place2} a {thing2}, on a {background} background",
    "{thing1} {place1}, {thing2} {place2}, {background} background",
    "{opening} two shapes on a {background} background, a {thing1} {place1}, a {thing2} {place2}",
    "the {shape1} {place1} is {colour1}, the {shape2} {place2} is {colour2}, on {background}",
)


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
        colour, shape = _pick(rng, tuple(COLOURS)), _pick(rng, SHAPES)
        if colour != background and ((colour, shape, background) in HELD_OUT) == held_out:
            return Thing(colour=colour, shape=shape, size=size, place=place)


def _slots(thing: Thing, rng: np.random.Generator, suffix: str) -> dict[str, str]:
    size, place = _pick(rng, SIZE_WORDS[thing.size]), _pick(rng, PLACE_WORDS[thing.place])
    size_is_clear = thing.size == "large" or suffix != ""  # two things are always small
    size = "" if size_is_clear and rng.random() < 0.5 else size
    place = "" if thing.place == "centre" and rng.random() < 0.5 else place
    words = {"size": size, "place": place, "colour": thing.colour, "shape": thing.shape}
    words["thing"] = f"{size} {thing.colour} {thing.shape}"
    return {name + suffix: word for name, word in words.items()}


def _tidy(text: str) -> str:
    """Closes the gaps that empty slots leave, and turns "a" into "an" before a vowel."""
    text = re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split())).strip(" ,")
    return re.sub(r"\ba(?= [aeiou])", "an", text)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall("[a-z]+", re.sub(r"{.*?}", "", text))}


_PHRASES = [*SIZE_WORDS.values(), *PLACE_WORDS.values(), ONE_THING, TWO_THINGS, OPENINGS]
VOCABULARY: tuple[str, ...] = tuple(
    sorted(_words([*COLOURS, *SHAPES, "an"]).union(*map(_words, _PHRASES)))
)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
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
