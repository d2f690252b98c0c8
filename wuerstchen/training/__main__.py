"""Re-create the bundled model, or measure how well a model obeys.

`python -m wuerstchen.training mini` trains Stage A and the text towers, then the compressor with
Stage B, Stage B alone, and Stage C, and writes a model folder. It can be stopped at any time and
goes on where it was; logs and pictures lie in the work folder.

`python -m wuerstchen.training measure` paints held-out prompts and lets the judge read the pictures.

`python -m wuerstchen.training samplers` measures what samplers, steps and presets cost and lose. It
too goes on where it was stopped, and writes samplers.json and samplers.png.

`python -m wuerstchen.training precision` measures what bfloat16, 8-bit and fp8 weights lose.

`python -m wuerstchen.training previews` fits the colours in which a host shows unfinished latents.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints.files import parsed
from ..checkpoints.sources import MINI
from ..checks import check_whole
from ..command_line.options import argparse_type
from ..pipeline import Wuerstchen
from ..placement import choose_device
from ..settings import PRESETS
from .cases import PARTS
from .chart import draw_chart
from .decoder import DecoderTask, StageBTask
from .export import export
from .look import save_labelled
from .loop import Plan, Task, finished, is_finished, train
from .measure import measure
from .precision import precision
from .previews import fit_previews
from .prior import PriorTask, kept_stock
from .samplers import Scale, Table, as_text
from .shapes import random_scene
from .text import TextTask, Tower
from .vqgan import StageATask
from .wording import caption

SHOWN = 24  # pictures on a sheet
MODEL = "model to measure: mini, v2 or a folder"
SEED = "of the prompts, and of the first picture"

PLANS = {
    "stage_a": Plan(steps=3000, lr=2e-3),
    "text": Plan(steps=1000, lr=1e-3),
    "decoder": Plan(steps=5500, lr=1.5e-3, decay=0.999, look_every=1500),
    "stage_b": Plan(steps=44000, lr=8e-4, decay=0.999, look_every=1500),
    "prior": Plan(steps=16000, lr=1.8e-3, decay=0.999, look_every=1500),
}


def main() -> int:
    """Run a job and return its exit status: 0, 2 for bad input, 130 after an interrupt."""
    args = parser().parse_args()
    try:
        if args.threads is not None:
            torch.set_num_threads(check_whole("threads", args.threads, 1))
        JOBS[args.job](args)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if args.job in GOING_ON else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all jobs."""
    root = argparse.ArgumentParser(
        prog="python -m wuerstchen.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    jobs = root.add_subparsers(dest="job", required=True)
    mini = jobs.add_parser("mini", help="train the bundled model")
    add(mini, "--work", Path("mini-training"), "folder of states, logs and pictures")
    about = "model folder to write (default: the package's own, which is replaced)"
    mini.add_argument("--out", type=Path, default=MINI, help=about)
    about = "train these parts and write no model"
    mini.add_argument("--only", nargs="+", choices=PLANS, help=about)
    measured = jobs.add_parser("measure", help="paint held-out prompts and count what is right")
    add(measured, "--model", "mini", MODEL)
    add(measured, "--prompts", 200, "number of prompts")
    add(measured, "--width", 256, "pixels")
    add(measured, "--height", 256, "pixels")
    add(measured, "--seed", 0, SEED)
    about = f"PNG to write of the first {SHOWN} pictures (default: none)"
    measured.add_argument("--sheet", type=Path, help=about)
    compared = jobs.add_parser("samplers", help="measure samplers, steps and presets")
    add(compared, "--model", "mini", MODEL)
    add(compared, "--out", Path("sampler-table"), "folder of results")
    add(compared, "--prompts", Scale.prompts, "number of prompts for the table")
    add(compared, "--checked", Scale.checked, "number of other prompts for the presets")
    lesser = jobs.add_parser("precision", help="measure what less precise numbers lose")
    add(lesser, "--model", "mini", MODEL)
    add(lesser, "--prompts", 400, "number of prompts")
    add(lesser, "--seed", 0, SEED)
    fitted = jobs.add_parser("previews", help="fit the colours of unfinished latents")
    add(fitted, "--model", "mini", MODEL)
    add(fitted, "--prompts", 100, "number of prompts")
    fitted.add_argument("--out", type=Path, required=True, help="JSON file to add the colours to")
    for job in (mini, measured, compared, lesser, fitted):
        about = "auto, cpu, cuda or mps (default: auto)"
        choose = trainers_device if job is mini else choose_device
        job.add_argument("--device", type=argparse_type(choose), default="auto", help=about)
        job.add_argument("--threads", type=int, help="CPU threads (default: all)")
    return root


def trainers_device(name: str = "auto") -> torch.device:
    """Return the device to train on: of itself not Apple's, which lacks some of what training needs.

    Raises:
        ValueError: as `choose_device`.
    """
    device = choose_device(name)
    return torch.device("cpu") if (name, device.type) == ("auto", "mps") else device


def add(job: argparse.ArgumentParser, flag: str, default: str | int | Path, about: str) -> None:
    """Add an option of the default's type, with the default in its help."""
    about = f"{about} (default: {default})"
    job.add_argument(flag, type=type(default), default=default, help=about)


def prepare(path: Path, suffix: str) -> None:
    """Make the folder of a file that is written when all else is done.

    Raises:
        ValueError: if the file's name ends in another suffix.
        OSError: if the folder cannot be made.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"expected the name of a file that ends in {suffix}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)


def train_mini(args: argparse.Namespace) -> None:
    """Train the parts that are not finished, in order; of all of them, write the model."""
    for name in args.only or PLANS:
        if not is_finished(name, PLANS[name], args.work):
            train(task(name, args.work, args.device), PLANS[name], args.work)
    if not args.only:
        write_model(args.work, args.out, args.device)


def task(name: str, work: Path, device: torch.device) -> Task:
    """Return the task of a part, standing on the finished parts before it.

    Its first weights are always the same.
    """
    torch.manual_seed(PLANS[name].seed)
    if name == "stage_a":
        return StageATask(device)
    if name == "text":
        return TextTask(device)
    decoder, tower = decoder_and_prior_tower(work, device)
    if name == "decoder":
        return decoder
    alone = StageBTask(finished(decoder, work))
    if name == "stage_b":
        return alone
    finished(alone, work)
    return PriorTask(decoder, tower, kept_stock(decoder, work))


def decoder_and_prior_tower(work: Path, device: torch.device) -> tuple[DecoderTask, Tower]:
    """Return the decoder's task and the tower for Stage C, on the finished Stage A and towers."""
    towers = finished(TextTask(device), work).towers
    stage_a = finished(StageATask(device), work).stage_a
    return DecoderTask(stage_a, towers["decoder"], device), towers["prior"]


def write_model(work: Path, out: Path, device: torch.device) -> None:
    """Write the model of the finished parts."""
    decoder, tower = decoder_and_prior_tower(work, device)
    finished(StageBTask(finished(decoder, work)), work)
    export(finished(PriorTask(decoder, tower, stock=[]), work), out)


def print_measure(args: argparse.Namespace) -> None:
    """Print each trait's share of right pictures."""
    if args.sheet:
        prepare(args.sheet, ".png")
    model = Wuerstchen.load(args.model, device=str(args.device), progress=False)
    readings = measure(model, prompts=args.prompts, size=(args.width, args.height), seed=args.seed)
    done = list(tqdm(readings, total=args.prompts, unit="picture"))
    for trait, rate in done[-1].score.rates().items():
        print(f"{trait:<12}{rate:6.1%}")
    if args.sheet:
        shown = done[:SHOWN]
        save_labelled([r.pixels for r in shown], [r.prompt for r in shown], args.sheet)


def write_samplers(args: argparse.Namespace) -> None:
    """Measure all cases, write the table and its chart, and print what the presets lose."""
    model = Wuerstchen.load(args.model, device=str(args.device), progress=False)
    table = Table(model, args.out, Scale(prompts=args.prompts, checked=args.checked))
    for _ in tqdm(table.rows(), total=sum(map(len, PARTS.values())), unit="case"):
        pass
    summary = table.summary()
    (args.out / "samplers.json").write_text(as_text(summary), encoding="utf-8")
    draw_chart(summary, args.out / "samplers.png")
    chosen = [row for row in summary["rows"] if row["part"] == "presets"]
    for name, row in zip(("default", *PRESETS), chosen, strict=True):
        calls = " + ".join(str(n) for n in row["calls"])
        lost = f"loses {row['lost']:+.2f} ± {row['error']:.2f} points"
        print(f"{name:<10}{calls:>9} calls {row['everything']:8.2%}  {lost}")


def print_precision(args: argparse.Namespace) -> None:
    """Print what each precision loses."""
    print("weights              C and B  adherence  lost             semantic latent  pixels")
    device = str(args.device)
    for loss in precision(args.model, prompts=args.prompts, seed=args.seed, device=device):
        name = loss.dtype if loss.quantize == "none" else f"{loss.quantize}, {loss.dtype}"
        print(
            f"{name:<18}{loss.megabytes:7.1f} MB  {loss.right:9.1%}  {loss.lost:+5.2f} ± "
            f"{loss.error:4.2f} points  {loss.semantic:15.2%}  {loss.grey:4.2f} levels",
            flush=True,
        )


def write_previews(args: argparse.Namespace) -> None:
    """Fit the colours of a model's latents and add them to a file."""
    check_whole("prompts", args.prompts, 1)
    prepare(args.out, ".json")
    known = parsed(args.out.read_bytes(), args.out) if args.out.exists() else {}
    model = Wuerstchen.load(args.model, device=str(args.device), progress=False)
    rng = np.random.default_rng(0)
    fitted = fit_previews(model, [caption(random_scene(rng), rng) for _ in range(args.prompts)])
    args.out.write_text(json.dumps(known | fitted, indent=1) + "\n", encoding="utf-8")
    for name, entry in fitted.items():
        print(f"{name:<16}{entry['explained']:6.1%} of the colour")


JOBS = {
    "mini": train_mini,
    "measure": print_measure,
    "samplers": write_samplers,
    "precision": print_precision,
    "previews": write_previews,
}
GOING_ON = ("mini", "samplers")  # jobs that keep what they have done

if __name__ == "__main__":
    sys.exit(main())
