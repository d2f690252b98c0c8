"""The benchmark's rows as JSON, as a Markdown table and as pictures."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import ceil, floor, log2, log10
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from .bench_tools import Bench, Row, short

WHITE, BLACK, GREY, PALE = "#ffffff", "#202020", "#808080", "#f0f0f0"
COLOURS = {"theirs": "#c0392b", "compiled": "#34607f"}
FONT, STEP, EDGE = ImageFont.load_default(size=14), 24, 12


def save(row: Row, folder: Path) -> list[Row]:
    """Write a row beside those of earlier runs, in place of one that it repeats; return all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    known = [Row(**entry) for entry in json.loads(file.read_text())] if file.exists() else []
    everything = list({each.key: each for each in [*known, row]}.values())
    everything.sort(key=lambda row: (row.device, row.dtype))
    file.write_text(json.dumps([asdict(row) for row in everything], indent=1))
    return everything


HEADINGS = (
    "what", "size", "batch", "dtype", "seconds", "beside", "its seconds", "ratio", "compiled",
    "ratio to that", "roof", "its roof", "memory", "its memory", "TFLOP", "its TFLOP", "difference",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return the entries of a row in the table."""
    timed = {who: bool(row.times.get(who)) for who in ("theirs", "compiled")}
    return [
        row.title,
        str(row.size or ""),
        str(row.batch),
        row.dtype,
        spread(row.times["ours"]),
        row.peer,
        spread(row.times["theirs"]) if timed["theirs"] else "",
        span(row.ratios()) if timed["theirs"] else "",
        spread(row.times["compiled"]) if timed["compiled"] else "",
        span(row.ratios("compiled")) if timed["compiled"] else "",
        *(percent(row.shares(who)) if row.times.get(who) else "" for who in ("ours", "theirs")),
        *(megabytes(row.peak.get(who, 0)) for who in ("ours", "theirs")),
        *(short(row.flops[w] / 1e12) if row.flops.get(w) else "" for w in ("ours", "theirs")),
        "" if row.error is None else f"{row.error:.0e}",
    ]


def spread(times: Sequence[float]) -> str:
    """Return the median and half the distance of the quartiles, in percent of it."""
    middle = median(times)
    if len(times) < 3:
        return short(middle)
    low, _, high = quantiles(times, method="inclusive")
    return f"{short(middle)} ±{(high - low) / 2 / middle:.0%}"


def span(ratios: Sequence[float]) -> str:
    """Return the median and, where there are several, the smallest and the largest."""
    ends = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{ends}"


def percent(shares: Sequence[float]) -> str:
    """Return the median share."""
    return f"{median(shares):.0%}" if shares else ""


def megabytes(count: int) -> str:
    """Return bytes in units of 10⁶."""
    return f"{count / 1e6:.0f} MB" if count else ""


def markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(folder: Path, title: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the table and the charts into a folder."""
    draw_table(title, rows).save(folder / "table.png")
    if raced := [row for row in rows if row.times.get("theirs")]:
        draw_ratios(title, raced).save(folder / "ratios.png")
    for dtype in {row.dtype for row in rows}:
        if line := [row for row in rows if row.peer == "SDXL" and row.dtype == dtype]:
            draw_batches(title[:1], line).save(folder / f"sdxl-{dtype}.png")


def sheet(title: Sequence[str], width: float, height: float) -> tuple[Image.Image, Any, float]:
    """Return an empty picture with its title, a pen and the row below the title."""
    top = STEP * (len(title) + 1)
    wide = max(width, *(FONT.getlength(line) for line in title)) + 2 * EDGE
    image = Image.new("RGB", (int(wide), int(top + height + EDGE)), WHITE)
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(title):
        pen.text((EDGE, EDGE + STEP * i), line, BLACK, FONT)
    return image, pen, top


def draw_table(title: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Return the table as a picture."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [
        max(FONT.getlength(entry) for entry in column) + 18 for column in zip(*lines, strict=True)
    ]
    image, pen, top = sheet(title, sum(widths), STEP * len(lines))
    for i, line in enumerate(lines):
        y, x = top + i * STEP, float(EDGE)
        if i % 2:
            pen.rectangle((0, y - 3, image.width, y + STEP - 4), PALE)
        for entry, width in zip(line, widths, strict=True):
            pen.text((x, y), entry, BLACK if i else GREY, FONT)
            x += width
    return image


def draw_ratios(title: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Return a bar per row, how many times as fast as the other ours is, on a scale of equal factors.

    They begin at a line that marks equality.
    """
    bars = [(row, who) for row in rows for who in COLOURS if row.times.get(who)]
    ratios = [median(row.ratios(who)) for row, who in bars]
    doublings = [log2(ratio) for ratio in ratios]
    least, most = min(0, *doublings), max(0, *doublings)
    unit, left = min(130, 700 / max(most - least, 1)), 380
    line = left - unit * least
    image, pen, top = sheet(title, line + unit * most + 220, STEP * len(bars))
    for i, ((row, who), ratio, length) in enumerate(zip(bars, ratios, doublings, strict=True)):
        y, ends = top + i * STEP, sorted((line, line + unit * length))
        place = f", size {row.size}, batch {row.batch}" if row.size else ""
        other = row.peer + (", compiled" if who == "compiled" else "")
        pen.text((EDGE, y), f"{row.title}{place}, {row.dtype}", BLACK, FONT)
        pen.rectangle((ends[0], y, ends[1], y + STEP - 8), COLOURS[who])
        pen.text((ends[1] + 8, y), f"{ratio:.2f} times {other}", BLACK, FONT)
    pen.line((line, top - 6, line, top + STEP * len(bars)), BLACK, 2)
    return image


def draw_batches(title: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Return seconds per image against batch size, both on scales of equal factors."""
    width, height, left = 640, 360, 90
    lines = {
        name: [(row.batch, row.seconds(who) / row.batch) for row in rows]
        for who, name in (("ours", "Wuerstchen"), ("theirs", "SDXL"))
    }
    seconds = [s for points in lines.values() for _, s in points]
    low, high = floor(log10(min(seconds))), ceil(log10(max(seconds)))
    batches = sorted({batch for points in lines.values() for batch, _ in points})
    across = max(log2(batches[-1] / batches[0]), 1)
    title = [*title, f"seconds per image of size 1024 against batch size, {rows[0].dtype}"]
    image, pen, top = sheet(title, left + width + 140, height + 2 * STEP)

    def place(batch: int, s: float) -> tuple[float, float]:
        right = log2(batch / batches[0]) / across
        return left + width * right, top + height * (high - log10(s)) / (high - low)

    for power in range(low, high + 1):
        y = place(batches[0], 10.0**power)[1]
        pen.line((left, y, left + width, y), PALE, 2)
        pen.text((EDGE, y - 8), f"{10.0**power:g} s", GREY, FONT)
    for batch in batches:
        pen.text((place(batch, 10.0**low)[0] - 4, top + height + 10), str(batch), GREY, FONT)
    for (name, points), colour in zip(lines.items(), COLOURS.values(), strict=True):
        path = [place(*point) for point in points]
        pen.line(path, colour, 3)
        for (x, y), (_, s) in zip(path, points, strict=True):
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
            label = f"{short(s)} s" + (f", {name}" if (x, y) == path[-1] else "")
            pen.text((x + 6, y + 4), label, BLACK, FONT)
    return image


def environment(bench: Bench) -> list[str]:
    """Return what the figures depend on, in lines."""
    import diffusers
    import transformers

    speeds = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in bench.products.items())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"{bench.name}; torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, transformers {transformers.__version__}, "
        f"Python {sys.version.split()[0]}",
        f"GFLOP/s: {speeds}; the roof is the fastest. Load average {load}.",
    ]
