"""The command line: `wuerstchen "PROMPT"`, `wuerstchen convert`, `wuerstchen info`.

What can be refused is refused before a model is loaded, in one line on stderr, with exit status 2.
"""

import argparse
import math
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .lora import parse_lora
from .pictures import check_output, contact_sheet, save
from .settings import SAMPLERS, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

REFUSED, INTERRUPTED = 2, 130

EXAMPLES = """\
examples:
  wuerstchen "a large red circle on a blue background"
  wuerstchen "a small green star" --width 384 --height 256 --seed 7 --output star.png
  wuerstchen "a red ring" "a blue ring" --batch 4 --grid --output rings/
  wuerstchen --model v2 "an astronaut on a horse, oil painting" --negative blurry --offload stage
  wuerstchen --model v2 --prior warp-ai/wuerstchen-prior-model-base "a lighthouse at dusk"

other commands:
  wuerstchen info SOURCE               what a checkpoint is
  wuerstchen convert SOURCE OUT        any checkpoint as one safetensors file
  wuerstchen -- info                   paints the word "info"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with warnings_in_one_line():
            command(words)
    except KeyboardInterrupt:
        print("wuerstchen: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, MemoryError) as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"wuerstchen: error: {message_of(error)}", file=sys.stderr)
        return REFUSED
    return 0


def command(words: list[str]) -> None:
    """Run the subcommand that the first word names, else paint."""
    if words in (["info"], ["convert"]):
        word = words[0]
        raise ValueError(
            f"{word} needs a SOURCE (see wuerstchen {word} --help); to paint the word {word!r}, "
            f"write wuerstchen -- {word}"
        )
    if words[:1] == ["info"]:
        show_info(words)
    elif words[:1] == ["convert"]:
        convert_source(words)
    else:
        paint(paint_parser().parse_intermixed_args(words))


def paint(args: argparse.Namespace) -> None:
    """Paint one prompt after the other, each with its batch, and print the name of each file."""
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    loras = [parse_lora(text) for text in args.lora]
    check_output(args.output, len(args.prompts) * settings.batch, args.grid)
    from torch.cuda import OutOfMemoryError

    from .pipeline import Wuerstchen

    hide_loading_bars()
    sources = {"model": args.model, "prior": args.prior, "decoder": args.decoder}
    model = Wuerstchen.load(**sources, device=args.device, dtype=args.dtype, offload=args.offload)
    for source, strength in loras:
        model.load_lora(source, strength)
    images: list[Image] = []
    paths: list[Path] = []
    for prompt in args.prompts:
        try:
            painted = model.paint(prompt, settings)
        except OutOfMemoryError as error:
            raise MemoryError(
                f"{model.placement.device} has too little memory; smaller are --offload stage, "
                "--offload layer, --batch 1 or a smaller --width and --height"
            ) from error
        for i, image in enumerate(painted):
            about = facts(prompt, alone(settings, i, image), {**sources, "lora": args.lora})
            paths.append(save(image, args.output, about))
            print(paths[-1], flush=True)
        if args.grid:
            images += painted
    if args.grid:
        sheet = contact_sheet(images, settings.batch)
        name = f"{paths[0].stem}-{paths[-1].stem}-grid.png"
        print(save(sheet, args.output / name, {"prompts": args.prompts}))


def hide_loading_bars() -> None:
    """Switch off transformers' bars, which take milliseconds; bars are for downloads and stages."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def alone(settings: Settings, i: int, image: "Image") -> Settings:
    """Return the settings that paint image `i` of a batch on its own."""
    return replace(
        settings,
        width=image.width,
        height=image.height,
        seed=settings.seed + i,
        decoder_seed=None if settings.decoder_seed is None else settings.decoder_seed + i,
        batch=1,
    )


def facts(prompt: str, settings: Settings, sources: dict[str, Any]) -> dict[str, Any]:
    """Return what a picture's file says about its making."""
    return {"prompt": prompt, **asdict(settings), **sources, "version": __version__}


def show_info(words: list[str]) -> None:
    """Print what a source holds."""
    parser = Parser(prog="wuerstchen info", description="Show which networks a checkpoint holds.")
    add_source(parser)
    args = parser.parse_args(words[1:])
    from .checkpoints import describe

    for description in describe(args.source):
        values = {name: in_words(value) for name, value in asdict(description).items() if value}
        width = max(map(len, values))
        print("\n".join(f"{name:{width}}  {value}" for name, value in values.items()), end="\n\n")


def in_words(value: Any) -> str:
    """Return a value of a description as people read it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def convert_source(words: list[str]) -> None:
    """Write a source as one safetensors file and print its name."""
    parser = Parser(
        prog="wuerstchen convert", description="Write a checkpoint as one safetensors file."
    )
    add_source(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write, ends in .safetensors")
    kinds = ("stage_a", "stage_b", "stage_c", "compressor")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: as it is")
    parser.add_argument("--kind", choices=kinds, help="which network, where SOURCE holds several")
    args = parser.parse_args(words[1:])
    from .checkpoints import convert
    from .placement import DTYPES

    convert(args.source, args.out, args.dtype and DTYPES[args.dtype], args.kind)
    print(args.out)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add what both subcommands take."""
    word = parser.prog.split()[-1]
    about = f"a file, a folder or a Hub name (to paint the prompt {word!r}: wuerstchen -- {word})"
    parser.add_argument("source", metavar="SOURCE", help=about)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def paint_parser() -> argparse.ArgumentParser:
    """Return the parser of the main command."""
    parser = Parser(
        prog="wuerstchen",
        description="Paint a picture from a prompt with Würstchen.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "prompts", metavar="PROMPT", nargs="+", help="what to paint; one picture (or batch) each"
    )
    parser.add_argument("--version", action="version", version=f"wuerstchen {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_model_options(parser.add_argument_group("model"))
    add_picture_options(parser.add_argument_group("picture"))
    add_sampling_options(parser.add_argument_group("sampling"))
    add_output_options(parser.add_argument_group("output"))
    return parser


def add_model_options(group: Any) -> None:
    """Add which model to use, and where and how it runs."""
    group.add_argument(
        "--model",
        default="mini",
        help="mini (bundled; the default), v2 (the published pair, 12 GB from the Hub), or a "
        "folder that holds wuerstchen-prior/ and wuerstchen/ in the published layout",
    )
    group.add_argument(
        "--prior", metavar="SOURCE", help="another Stage C: a folder, a Hub name or a file"
    )
    group.add_argument("--decoder", metavar="SOURCE", help="another Stage B and Stage A, likewise")
    group.add_argument(
        "--lora",
        metavar="SOURCE[:STRENGTH]",
        action="append",
        default=[],
        help="a LoRA for the prior, of any usual format; may be given several times",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA, then MPS, then CPU; the default), cpu, cuda, cuda:N or mps",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        help="auto (fp32 on the CPU, else fp16; the default), fp32, fp16 or bf16",
    )
    group.add_argument(
        "--offload",
        default="none",
        help="none: weights stay on the device (the default); stage: only while their stage runs; "
        "layer: only while their layer runs",
    )


def add_picture_options(group: Any) -> None:
    """Add what is painted, and how large."""
    group.add_argument(
        "--negative", metavar="TEXT", default="", help="what the picture should not show"
    )
    group.add_argument(
        "--weighting",
        metavar="SYNTAX",
        default=Settings.weighting,
        help="how prompts weigh words: comfy, as in (word:1.3) and [word] (the default); compel, as "
        "in word++ and (two words)1.2; none",
    )
    side = "pixels, at least 128; default: the model's native size"
    group.add_argument("--width", metavar="N", type=whole, help=side)
    group.add_argument("--height", metavar="N", type=whole, help=side)
    group.add_argument(
        "--batch",
        metavar="N",
        type=whole,
        default=Settings.batch,
        help="pictures per prompt; picture i (from 0) is the one of seed + i (default: 1)",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole,
        default=Settings.seed,
        help="of the first picture (default: 0)",
    )
    group.add_argument(
        "--decoder-seed",
        metavar="N",
        type=whole,
        help="a seed of its own for Stage B: other details of the same composition "
        "(default: Stage B goes on with Stage C's generator)",
    )


def add_sampling_options(group: Any) -> None:
    """Add how the two diffusion stages sample."""
    group.add_argument(
        "--steps",
        metavar="N",
        type=whole,
        help="of Stage C, evenly spaced (default: the published list of 29)",
    )
    names = ", ".join(SAMPLERS)
    group.add_argument(
        "--sampler",
        metavar="NAME",
        default=Settings.sampler,
        help=f"of Stage C: {names} (default: ddpm)",
    )
    group.add_argument(
        "--cfg",
        dest="guidance",
        metavar="X",
        type=number,
        default=Settings.guidance,
        help="guidance of Stage C: how strongly the prompt binds; none up to 1 (default: 4.0)",
    )
    group.add_argument(
        "--cfg-rescale",
        dest="guidance_rescale",
        metavar="X",
        type=number,
        default=Settings.guidance_rescale,
        help="from 0 to 1: how much guidance keeps the contrast of no guidance (default: 0)",
    )
    group.add_argument(
        "--cfg-start",
        dest="guidance_start",
        metavar="T",
        type=number,
        default=Settings.guidance_start,
        help="time (1 = noise, 0 = picture) from which Stage C is guided (default: 1)",
    )
    group.add_argument(
        "--cfg-end",
        dest="guidance_end",
        metavar="T",
        type=number,
        default=Settings.guidance_end,
        help="time down to which it is guided; a step outside takes half the time (default: 0)",
    )
    group.add_argument(
        "--decoder-steps",
        metavar="N",
        type=whole,
        default=Settings.decoder_steps,
        help="of Stage B (default: 12)",
    )
    group.add_argument(
        "--decoder-sampler",
        metavar="NAME",
        default=Settings.decoder_sampler,
        help="of Stage B, as --sampler (default: ddpm)",
    )
    group.add_argument(
        "--decoder-cfg",
        dest="decoder_guidance",
        metavar="X",
        type=number,
        default=Settings.decoder_guidance,
        help="guidance of Stage B (default: 0.0, none)",
    )


def add_output_options(group: Any) -> None:
    """Add where pictures go."""
    group.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        default=Path("wuerstchen-output"),
        help="a folder, which gets 00000.png and so on, after the highest number in it, in the "
        "order of the prompts; or a name ending in .png for one picture, which replaces a file of "
        "that name (default: the folder wuerstchen-output)",
    )
    group.add_argument("--grid", action="store_true", help="also write all pictures on one sheet")


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are errors like any other."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def whole(text: str) -> int:
    """Return the whole number in `text`."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def number(text: str) -> float:
    """Return the finite number in `text`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def message_of(error: Exception) -> str:
    """Return what an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show warnings on stderr in one line each, for the length of a run."""

    def show(message: Warning | str, *where: Any, **how: Any) -> None:
        print(f"wuerstchen: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
