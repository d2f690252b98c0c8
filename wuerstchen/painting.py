"""`wuerstchen PROMPT`: from options to files.

Everything that can be refused is refused before the model is loaded; each picture is on the disk as
soon as it is painted.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .blending import parse_blend
from .lora import parse_lora
from .pictures import SOURCES, check_output, contact_sheet, save
from .prompt_files import open_manifest, read_jobs
from .settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Wuerstchen


def paint(args: argparse.Namespace) -> Iterator[Path | str]:
    """Paint what the options ask for and yield what to tell: the name of each file.

    Raises:
        OSError: if a file is missing or cannot be written.
        ValueError: if an option cannot be used, or not with another one.
        MemoryError: if the device has too little memory.
    """
    settings = [settings_of(args, image) for image in args.image or [None]]
    with memory_in_words(args.device):
        if args.prompts is not None:
            yield from paint_file(args, settings[0])
        elif args.interpolate is not None:
            yield from paint_path(args, settings)
        else:
            yield from paint_prompts(args, settings[0])


def settings_of(args: argparse.Namespace, image: str | None) -> Settings:
    """Return the settings among the options, for one of the images."""
    values = {name: getattr(args, name) for name in vars(Settings()) if name != "image"}
    return Settings(**values, image=image)


def paint_prompts(args: argparse.Namespace, settings: Settings) -> Iterator[Path]:
    """Paint one prompt after the other, each with its batch."""
    if not args.wanted:
        raise ValueError("a PROMPT is needed, got none (see wuerstchen --help)")
    if len(args.image) > 1:
        raise ValueError(f"several images are for --interpolate, got {' and '.join(args.image)}")
    check_output(args.output, len(args.wanted) * settings.batch, args.grid)
    model = load(args, settings)
    images: list[Image] = []
    paths: list[Path] = []
    for prompt in args.wanted:
        painted = model.paint(prompt, settings)
        for i, image in enumerate(painted):
            about = {"prompt": prompt, **painted_as(settings.alone(i), image), **sources(args)}
            paths.append(save(image, args.output, about))
            yield paths[-1]
        images += painted if args.grid else []
    if args.grid:
        about = {"prompts": args.wanted, **asdict(settings), **sources(args)}
        yield save_grid(images, settings.batch, paths, args.output, about)


def paint_path(args: argparse.Namespace, settings: Sequence[Settings]) -> Iterator[Path]:
    """Paint pictures along the path through prompts or images."""
    if len(args.wanted) > 1 and len(args.image) > 1 and len(args.wanted) != len(args.image):
        counts = f"{len(args.wanted)} prompts and {len(args.image)} images"
        raise ValueError(f"--interpolate needs as many prompts as images, or one, got {counts}")
    if max(len(args.wanted), len(args.image)) < 2 or args.interpolate < 2 or not args.wanted:
        raise ValueError(
            "--interpolate needs at least 2 pictures, and 2 prompts or a prompt and 2 images, got "
            f"{args.interpolate}, {len(args.wanted)} prompts and {len(args.image)} images"
        )
    check_output(args.output, args.interpolate, args.grid)
    stops = list(settings) * (len(args.wanted) if len(settings) == 1 else 1)
    prompts = args.wanted * (len(stops) if len(args.wanted) == 1 else 1)
    model = load(args, *settings)
    images = model.interpolate(prompts, args.interpolate, stops)
    about = {
        "prompts": args.wanted,
        **painted_as(settings[0].alone(0), images[0]),
        "images": args.image,
        "interpolate": args.interpolate,
        **sources(args),
    }
    paths = []
    for i, image in enumerate(images):
        paths.append(save(image, args.output, {**about, "frame": i}))
        yield paths[-1]
    if args.grid:
        yield save_grid(images, len(images), paths, args.output, about)


def paint_file(args: argparse.Namespace, settings: Settings) -> Iterator[str]:
    """Paint the prompts of a file into a folder, without those that are there already."""
    from tqdm import tqdm

    if args.wanted or args.interpolate or args.grid or len(args.image) > 1:
        raise ValueError(
            "--prompts FILE stands alone, without PROMPT, --interpolate, --grid or several images"
        )
    jobs = read_jobs(args.prompts, settings)
    total = sum(map(len, jobs))
    check_output(args.output, max(total, 2), grid=False)
    open_manifest(args.output, jobs, sources(args))
    missing = [[job for job in row if not (args.output / job.file).exists()] for row in jobs]
    left = sum(map(len, missing))
    if left:
        model = load(args, *(job.settings for row in missing for job in row), progress=False)
        with tqdm(desc="pictures", total=total, initial=total - left) as bar:
            for row in filter(None, missing):
                images = model.paint([j.prompt for j in row], [j.settings for j in row])
                for job, image in zip(row, images, strict=True):
                    own = painted_as(job.settings, image)
                    about = {"prompt": job.prompt, **own, **sources(args)}
                    save(image, args.output / job.file, about)
                    bar.update()
    yield f"{args.output}: {total} pictures, {left} of them new"


def load(args: argparse.Namespace, *settings: Settings, progress: bool = True) -> "Wuerstchen":
    """Return the model with its LoRAs, once all that settings name is there and fits."""
    from .canvas import canvas_for, given

    loras = [parse_lora(text) for text in args.lora]
    for source in filter(None, (args.prior, args.decoder, args.stage_a, args.compressor)):
        parse_blend(source)  # refuses one that makes no sense
    for one in {given(one): one for one in settings if one.image is not None}.values():
        canvas_for(one)
    from .pipeline import Wuerstchen

    where = (*SOURCES, "device", "dtype", "offload", "quantize", "compile")
    model = Wuerstchen.load(**{name: getattr(args, name) for name in where}, progress=progress)
    for source, strength in loras:
        model.load_lora(source, strength)
    return model


@contextmanager
def memory_in_words(device: str) -> Iterator[None]:
    """Say what needs less memory where the device has too little."""
    try:
        yield
    except RuntimeError as error:  # as CUDA, MPS and the CPU say it
        if not re.search("out of memory|can't allocate memory|not enough memory", str(error)):
            raise
        raise MemoryError(
            f"too little memory for --device {device}; smaller are --offload stage, "
            "--offload layer, --tile 512, --batch 1 or a smaller --width and --height"
        ) from error


def painted_as(settings: Settings, image: "Image") -> dict[str, Any]:
    """Return the settings that paint `image` again, its size among them."""
    return asdict(settings.sized(*image.size))


def sources(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a picture's file says of the model."""
    given = {name: getattr(args, name) for name in (*SOURCES, "lora", "quantize")}
    return {**given, "version": __version__}


def save_grid(
    images: "Sequence[Image]", columns: int, paths: Sequence[Path], output: Path, about: Any
) -> Path:
    """Write all images on one sheet and return its path."""
    name = f"{paths[0].stem}-{paths[-1].stem}-grid.png"
    return save(contact_sheet(images, columns), output / name, about)
