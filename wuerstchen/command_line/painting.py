"""`wuerstchen PROMPT`: from the values of its options to files.

Everything that can be refused is refused before the model is loaded; each picture is on the disk as
soon as it is painted.
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..checkpoints.notation import parse_blend, parse_lora
from ..checks import check_text
from ..prompt_files import Job, read_jobs
from ..settings import Settings
from .manifest import manifest, write_manifest
from .pictures import SOURCES, check_output, contact_sheet, save

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipeline import Wuerstchen

# as CUDA and MPS, cuBLAS and cuDNN, and the CPU say it
OUT_OF_MEMORY = (
    "out of memory|ALLOC_FAILED|Invalid buffer size|can't allocate memory|not enough memory"
)


def paint(args: argparse.Namespace) -> Iterator[Path | str]:
    """Paint what the options ask for and yield what to tell: the name of each file.

    Raises:
        OSError: if a file is missing or cannot be written.
        ValueError: if an option cannot be used, or not with another one.
        MemoryError: if the device has too little memory.
    """
    for prompt in args.wanted:
        check_text("a prompt", prompt)
    with explain_out_of_memory(args.device):
        if args.prompts is not None:
            yield from paint_file(args)
        elif args.interpolate is not None:
            yield from paint_path(args)
        else:
            yield from paint_prompts(args)


def settings_in(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings among the options, by name; the image is the first."""
    values = {name: getattr(args, name) for name in vars(Settings())}
    return {**values, "image": next(iter(args.image), None)}


def paint_prompts(args: argparse.Namespace) -> Iterator[Path]:
    """Paint one prompt after the other, each with its batch.

    Raises:
        ValueError: if options do not go together.
    """
    settings = Settings(**settings_in(args))
    if not args.wanted:
        raise ValueError("a PROMPT is needed, got none (see wuerstchen --help)")
    if len(args.image) > 1:
        raise ValueError(f"several images are for --interpolate, got {' and '.join(args.image)}")
    check_output(args.output, len(args.wanted) * settings.batch, args.grid)
    check_apart(args)
    model = load(args, [settings])
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


def check_apart(args: argparse.Namespace) -> None:
    """Refuse to put a picture in the place of what it is painted over: it could not be repeated.

    Raises:
        ValueError: with the file.
    """
    for given in filter(None, (*args.image, args.mask)):
        path = Path(os.path.expanduser(given))
        if path.exists() and args.output.is_file() and path.samefile(args.output):
            raise ValueError(
                f"--output must not be the picture to paint over, got {given} for both"
            )


def paint_path(args: argparse.Namespace) -> Iterator[Path]:
    """Paint pictures along the path through prompts or images, --batch of them at once."""
    prompts, settings = stops(args)
    check_output(args.output, args.interpolate, args.grid)
    model = load(args, settings)
    told = {"images": args.image, "interpolate": args.interpolate, **sources(args)}
    images: list[Image] = []
    paths: list[Path] = []
    for i, image in enumerate(model.walk(prompts, args.interpolate, settings)):
        about = {"prompts": args.wanted, **painted_as(settings[0], image), **told}
        paths.append(save(image, args.output, {**about, "frame": i}))
        yield paths[-1]
        images += [image] if args.grid else []
    if args.grid:
        yield save_grid(images, len(images), paths, args.output, about)


def stops(args: argparse.Namespace) -> tuple[list[str], list[Settings]]:
    """Return prompts and settings of the stops of a path, once they go together.

    Raises:
        ValueError: if they are too few or do not go together.
    """
    prompts, images = args.wanted, args.image
    if len(prompts) > 1 and len(images) > 1 and len(prompts) != len(images):
        counts = f"{len(prompts)} prompts and {len(images)} images"
        raise ValueError(f"--interpolate needs as many prompts as images, or one, got {counts}")
    if max(len(prompts), len(images)) < 2 or args.interpolate < 2 or not prompts:
        raise ValueError(
            "--interpolate needs at least 2 pictures, and 2 prompts or a prompt and 2 images, got "
            f"{args.interpolate}, {len(prompts)} prompts and {len(images)} images"
        )
    if args.mask is not None or any(args.outpaint):
        raise ValueError("--interpolate leads between whole images; give no --mask or --outpaint")
    settings = [Settings(**settings_in(args) | {"image": image}) for image in images or [None]]
    if len(sizes := image_sizes(settings)) > 1:
        found = " and ".join(f"{width}×{height}" for width, height in sorted(sizes))
        raise ValueError(
            f"--interpolate needs images of one size, got {found}; give --width and --height"
        )
    count = max(len(prompts), len(settings))
    return prompts * (count // len(prompts)), settings * (count // len(settings))


def paint_file(args: argparse.Namespace) -> Iterator[str]:
    """Paint the prompts of a file into a folder, without those that are there already.

    Raises:
        ValueError: if options do not go together, or the file cannot be used.
    """
    from tqdm import tqdm

    if args.wanted or args.interpolate or args.grid or len(args.image) > 1:
        raise ValueError(
            "--prompts FILE stands alone, without PROMPT, --interpolate, --grid or several images"
        )
    jobs = read_jobs(args.prompts, settings_in(args))
    total = sum(map(len, jobs))
    check_output(args.output, max(total, 2), grid=False)
    text = manifest(args.output, jobs, sources(args))

    def absent(row: list[Job]) -> list[Job]:
        return [job for job in row if not (args.output / job.file).exists()]

    new = 0
    if left := [job for row in jobs for job in absent(row)]:
        model = load(args, [job.settings for job in left], progress=False)
        write_manifest(args.output, text)
        with tqdm(desc="pictures", total=total, initial=total - len(left)) as bar:
            for row in filter(None, map(absent, jobs)):  # another run may fill the folder, too
                images = model.paint([j.prompt for j in row], [j.settings for j in row])
                for job, image in zip(row, images, strict=True):
                    own = painted_as(job.settings, image)
                    about = {"prompt": job.prompt, **own, **sources(args)}
                    save(image, args.output / job.file, about)
                    bar.update()
                new += len(row)
    yield f"{args.output}: {total} pictures, {new} of them new"


def load(
    args: argparse.Namespace, settings: Sequence[Settings], progress: bool = True
) -> "Wuerstchen":
    """Return the model with its LoRAs, once all that settings and sources name is there and fits."""
    loras = [parse_lora(text) for text in args.lora]
    check_sources(args, [source for source, _ in loras])
    image_sizes(settings)
    from ..pipeline import Wuerstchen

    where = (*SOURCES, "device", "dtype", "offload", "quantize", "compile")
    model = Wuerstchen.load(**{name: getattr(args, name) for name in where}, progress=progress)
    for source, strength in loras:
        model.load_lora(source, strength)
    return model


def check_sources(args: argparse.Namespace, loras: Sequence[str]) -> None:
    """Refuse blends that make no sense, and files that are not there; the Hub is not asked."""
    from ..checkpoints.files import SUFFIXES
    from ..checkpoints.sources import HUB_NAME, resolve

    networks = list(filter(None, (args.prior, args.decoder, args.stage_a, args.compressor)))
    blended = [
        source for network in networks for source, _ in parse_blend(network) or [(network, 1)]
    ]
    for source in [*blended, *loras]:
        if not HUB_NAME.fullmatch(source) or source.endswith(SUFFIXES):
            resolve(source)


def image_sizes(settings: Sequence[Settings]) -> set[tuple[int, int]]:
    """Return the sizes of the pictures to paint over, once all of them can be used."""
    from ..canvas import canvas_for, canvas_key

    each = {canvas_key(one): one for one in settings if one.image is not None}
    return {canvas_for(one).size for one in each.values()}


@contextmanager
def explain_out_of_memory(device: str) -> Iterator[None]:
    """Say what needs less memory where the device has too little.

    Raises:
        MemoryError: with what needs less.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(OUT_OF_MEMORY, str(error)):
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
