"""The chart of the sampler table: adherence and both distances against network calls.

A row of panels per stage, a line per sampler, with hollow dots where it draws noise. Everything is
drawn three times as large and then shrunk, so that slanted lines are smooth.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .cases import NOISY, TWINS

Row = dict[str, Any]
Point = tuple[float, float]
Colour = tuple[int, int, int]

FINE = 3  # drawn pixels per pixel
WIDTH, HEIGHT = 1500, 900
LEFT, TOP, PANEL_W, PANEL_H, GAP_X, GAP_Y = 70, 100, 400, 300, 85, 100
INK, GREY, FAINT = (35, 35, 40), (115, 115, 122), (228, 228, 232)
COLOURS: dict[str, Colour] = {
    "ddpm": (20, 20, 22),
    "dpmpp_2m_sde": (240, 140, 20),
    "dpmpp_3m_sde": (185, 160, 10),
    "ddim": (135, 85, 45),
    "heun": (235, 120, 190),
    "dpmpp_2m": (210, 30, 45),
    "unipc": (40, 100, 225),
    "lms": (0, 170, 180),
    "deis": (40, 155, 70),
}
CALLS = {"stage_c": (6, 8, 12, 16, 20, 28, 40, 58), "stage_b": (1, 2, 3, 4, 6, 8, 12)}
ADHERENCE = "everything"
LEAST = 16  # twentieths of adherence; the chart is about what is useful
MARKS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # per cent, or grey levels


@dataclass(frozen=True)
class Panel:
    """A box with calls across, logarithmic, and a figure upwards, logarithmic unless `linear`."""

    pen: ImageDraw.ImageDraw
    corner: Point
    across: Sequence[float]
    up: Sequence[float]
    linear: bool

    def place(self, x: float, y: float) -> Point:
        """Return the pixel of a point."""
        along = 0.03 + 0.94 * share(x, self.across, False)
        rise = 0.03 + 0.94 * share(y, self.up, self.linear)
        return self.corner[0] + PANEL_W * along, self.corner[1] + PANEL_H * (1 - rise)

    def frame(self, title: str, unit: str, foot: str, percent: bool) -> None:
        """Draw grid, marks and titles."""
        left, top = self.corner
        right, bottom = left + PANEL_W, top + PANEL_H
        for x in self.across:
            across, _ = self.place(x, self.up[0])
            line(self.pen, [(across, top), (across, bottom)], FAINT, 1)
            write(self.pen, (across, bottom + 6), f"{x:g}", 13, "ma")
        for y in self.up:
            _, rise = self.place(self.across[0], y)
            line(self.pen, [(left, rise), (right, rise)], FAINT, 1)
            write(self.pen, (left - 7, rise), f"{100 * y:g} %" if percent else f"{y:g}", 13, "rm")
        line(self.pen, [(left, top), (left, bottom), (right, bottom)], INK, 1.3)
        write(self.pen, (left, top - 27), title, 16, "ls")
        write(self.pen, (left, top - 9), unit, 13, "ls", GREY)
        write(self.pen, (left + PANEL_W / 2, bottom + 26), foot, 13, "ma", GREY)

    def curve(self, sampler: str, found: Sequence[Point]) -> None:
        """Draw a sampler's line."""
        places = [self.place(*point) for point in found]
        line(self.pen, places, COLOURS[sampler], 1.8)
        for place in places:
            dot(self.pen, place, COLOURS[sampler], sampler in NOISY)

    def level(self, value: float, words: str, above: bool) -> None:
        """Draw a grey line at a value, with words above or below it."""
        (left, y), (right, _) = (self.place(x, value) for x in (self.across[0], self.across[-1]))
        line(self.pen, [(left, y), (right, y)], GREY, 1.5)
        write(self.pen, (left, y - 4 if above else y + 4), words, 12, "ls" if above else "la", GREY)


def draw_chart(table: Row, path: Path) -> None:
    """Save the chart of a table, from `samplers.Table.summary`, as a PNG."""
    sheet = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), "white")
    pen = ImageDraw.Draw(sheet)
    legend(pen)
    for i, part in enumerate(CALLS):
        rows = [row for row in table["rows"] if row["part"] == part]
        for j, name in enumerate((ADHERENCE, "path", "spread")):
            corner = (LEFT + j * (PANEL_W + GAP_X), TOP + i * (PANEL_H + GAP_Y))
            exact = table["exact"][part] if name == "spread" else {}
            found = [row[name] for row in rows if row[name] is not None]
            up = marks([*found, *exact.values()], part, name)
            panel = Panel(pen, corner, CALLS[part], up, name == ADHERENCE)
            panel.frame(*titles(part, name, table["scale"]))
            for sampler in COLOURS:
                panel.curve(sampler, list(points(rows, part, sampler, name)))
            for sampler, value in exact.items():
                panel.level(value, f"{sampler} in so many steps", value == max(exact.values()))
    small = sheet.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def titles(part: str, name: str, scale: Row) -> tuple[str, str, str, bool]:
    """Return title, unit and foot of a panel, and whether its figures are percentages."""
    stage, pixels = f"Stage {part[-1].upper()}", part == "stage_b"
    steps = scale["references_b" if pixels else "references_c"][1]
    per = "grey levels of 255" if pixels else "share of the latent's RMS"
    title, unit = {
        ADHERENCE: ("adherence", f"share of {scale['prompts']} pictures with every trait right"),
        "path": ("distance along the path", f"to ddim in {steps} steps, RMS, {per}"),
        "spread": (
            "distance of distributions",
            f"to ddpm in {steps} steps, share of its deviation",
        ),
    }[name]
    foot = f"network calls of {stage} per picture"
    return f"{stage}: {title}", unit, foot, not is_grey(part, name)


def is_grey(part: str, name: str) -> bool:
    """Whether a figure is in grey levels, not a share."""
    return (part, name) == ("stage_b", "path")


def marks(found: Sequence[float], part: str, name: str) -> Sequence[float]:
    """Return two marks or more of an axis that holds all figures, except for the very worst."""
    if name == ADHERENCE:
        least = min(max(math.floor(20 * min(found)), LEAST), 19)
        return [share / 20 for share in range(least, 21)]
    unit = 1.0 if is_grey(part, name) else 0.01
    most = min(mark for mark in MARKS[1:] if mark * unit >= max(found) or mark == MARKS[-1])
    lowest = min(found) / 1.5  # which leaves room for words below it
    first = max(mark for mark in MARKS if mark * unit <= lowest or mark == MARKS[0])
    return [mark * unit for mark in MARKS if min(first, most / 2) <= mark <= most]


def points(rows: Sequence[Row], part: str, sampler: str, name: str) -> Iterator[Point]:
    """Yield calls and figure of a sampler's rows, by calls; steps of the default are its own."""
    own, stage = ("sampler", 0) if part == "stage_c" else ("decoder_sampler", 1)
    for row in sorted(rows, key=lambda row: int(row["calls"][stage])):
        if row["settings"].get(own, "ddpm") == sampler and row[name] is not None:
            yield row["calls"][stage], row[name]


def share(value: float, axis: Sequence[float], linear: bool) -> float:
    """Return where a value lies on an axis, 0 to 1; beyond its ends it is moved to them."""
    value = min(max(value, axis[0]), axis[-1])
    if linear:
        return (value - axis[0]) / (axis[-1] - axis[0])
    return math.log(value / axis[0]) / math.log(axis[-1] / axis[0])


def legend(pen: ImageDraw.ImageDraw) -> None:
    """Write every sampler beside a piece of its line, and what dots mean."""
    x = float(LEFT)
    for sampler, colour in COLOURS.items():
        line(pen, [(x, 30), (x + 28, 30)], colour, 1.8)
        dot(pen, (x + 14, 30), colour, sampler in NOISY)
        name = ", ".join([sampler, *(twin for twin, other in TWINS.items() if other == sampler)])
        write(pen, (x + 35, 30), name, 15, "lm")
        x += 56 + ImageFont.load_default(15).getlength(name)
    note = "hollow: draws noise; at an edge: beyond it"
    write(pen, (WIDTH - 30, 30), note, 13, "rm", GREY)


def line(pen: ImageDraw.ImageDraw, places: Sequence[Point], colour: Colour, width: float) -> None:
    """Draw a line through places, if there are any."""
    if places:
        pen.line([(x * FINE, y * FINE) for x, y in places], colour, round(width * FINE), "curve")


def dot(pen: ImageDraw.ImageDraw, place: Point, colour: Colour, hollow: bool) -> None:
    """Draw a dot at a place."""
    x, y, radius = place[0] * FINE, place[1] * FINE, 3.6 * FINE
    box = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(box, "white" if hollow else colour, colour, round(1.6 * FINE))


def write(
    pen: ImageDraw.ImageDraw,
    place: Point,
    words: str,
    size: int,
    anchor: str,
    colour: Colour = INK,
) -> None:
    """Write words at a place, which their anchor says."""
    font = ImageFont.load_default(size * FINE)
    at = place[0] * FINE, place[1] * FINE
    pen.text(at, words, colour, font, anchor, stroke_width=FINE, stroke_fill="white")
