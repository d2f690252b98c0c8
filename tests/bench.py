"""Speed, memory and operations, ours beside diffusers, on the same random full-size weights.

    python tests/bench.py [parts] [--device cpu] [--dtype fp32] [--sizes 512] [--batches 1]

Parts: text, stage_c, stage_b, stage_a, whole, offload, cold, load, sdxl. A whole picture is the sum of its
steps, for which `whole` and `sdxl` measure all stages, each in a process of its own. Each run puts its
rows with those of earlier ones in `results.json` of the output folder, and draws the table and the
charts of all.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import bench_beside as beside, bench_pictures as pictures
from tests.bench_offload import offload
from tests.bench_stages import (
    FIRST,
    FIRST_STEPS,
    STEPS,
    TOLERANCE,
    Shapes,
    stage_a,
    stage_b,
    stage_c,
    text,
)
from tests.bench_tools import Bench, Row

Part = Callable[[Bench, Shapes], Iterator[Row]]


def whole(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield the rows of all stages, and then whole pictures."""
    rows: list[Row] = []
    for part in (text, stage_c, stage_b, stage_a):
        alone = rows_alone(part, bench, shapes)
        rows += alone
        yield from alone
    for size, n in shapes:
        yield total(
            bench, size, n, [r for r in rows if (r.size, r.batch) == (size, n) or not r.size]
        )


def rows_alone(part: Part, bench: Bench, shapes: Shapes) -> list[Row]:
    """Return the rows of a part from a process of its own.

    Elsewhere what the networks of another part have left would serve as memory, which no run has.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(rows_of, part, bench.words, shapes).result()


def rows_of(part: Part, words: argparse.Namespace, shapes: Shapes) -> list[Row]:
    """Return the rows of a part."""
    return list(part(Bench(words), shapes))


def total(bench: Bench, size: int, n: int, parts: Sequence[Row]) -> Row:
    """Return a whole picture: each part as often as a picture needs it."""
    row = bench.row("whole", "whole picture", size, n)
    row.note = ", ".join(f"{part.what} {part.note}" for part in parts if part.note)
    names = {part.what for part in parts}

    def count(part: Row, who: str) -> int:
        begins = who == "ours" and part.what + FIRST_STEPS in names
        return STEPS.get(part.what, 1) - (FIRST if begins else 0)

    for who in ("ours", "theirs"):
        runs = [(count(part, who), part) for part in parts if who in part.times]
        row.times[who] = [sum(times * part.seconds(who) for times, part in runs)]
        row.flops[who] = sum(times * part.flops[who] for times, part in runs)
        row.peak[who] = max(part.peak[who] for _, part in runs)
    others = [part for part in parts if "theirs" in part.times]
    if any("compiled" in part.times for part in others):  # the towers and Stage A never are
        best = [part.times.get("compiled", part.times["theirs"]) for part in others]
        pairs = zip(others, best, strict=True)
        row.times["compiled"] = [sum(count(part, "compiled") * median(t) for part, t in pairs)]
    ideal = sum(count(part, "ours") * part.flops["ours"] / median(part.roof) for part in parts)
    row.roof, row.load = [row.flops["ours"] / ideal], os.getloadavg()[0]
    return row


def sdxl(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield whole pictures of 1024² per batch size, and the same by SDXL."""
    wholes: dict[int, Row] = {}
    for row in whole(bench, [(beside.SDXL_SIZE, n) for n in sorted({n for _, n in shapes})]):
        yield row
        if row.part == "whole":
            wholes[row.batch] = row
    yield from beside.sdxl(bench, wholes)


PARTS: dict[str, Part] = {
    "text": text,
    "stage_c": stage_c,
    "stage_b": stage_b,
    "stage_a": stage_a,
    "whole": whole,
    "offload": offload,
    "cold": lambda bench, _: beside.cold(bench),
    "load": lambda bench, _: beside.load(bench),
    "sdxl": sdxl,
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none is all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=TOLERANCE)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--seconds", type=float, default=20, help="for the rounds of a row")
    parser.add_argument("--rounds", type=int, default=3, help="of a row at least")
    parser.add_argument(
        "--compile",
        nargs="+",
        default=[],
        choices=("ours", "diffusers"),
        help="compile ours; time diffusers compiled, too",
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="for one thread on a busy machine"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-output"))
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    bench = Bench(args)
    title = pictures.environment(bench)
    print("\n".join(title))
    shapes = [(size, n) for size in args.sizes for n in args.batches]
    for part in args.parts or PARTS:
        for row in PARTS[part](bench, shapes):
            print(row.line, flush=True)
            everything = pictures.save(row, args.out)
    print("\n" + pictures.markdown(everything))
    pictures.draw(args.out, title, everything)


if __name__ == "__main__":
    main()
