"""Pictures on disk: under which names, and what their files say about how they were made.

A file appears under its name only when all of it is written.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import Settings
from ..writing import unfinished

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCES = ("model", "prior", "decoder", "stage_a", "compressor")
MANIFEST = "manifest.jsonl"  # of a folder that a file of prompts fills: pictures to come
NUMBERED = re.compile(r"(\d{5,})\.png", re.IGNORECASE)
OTHER_PICTURES = {".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PUBLISHED_STEPS = 29


def save(image: "Image", output: Path, about: dict[str, Any]) -> Path:
    """Write `image` as PNG and return its path: `output`, or a new number in the folder `output`.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    from PIL.PngImagePlugin import PngInfo

    path = output if names_file(output) else numbered(output)
    info = PngInfo()
    readable = parameters(about).encode(errors="backslashreplace").decode()
    info.add_text("parameters", readable)
    info.add_text("wuerstchen", json.dumps(about))
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as part:
        image.save(part, format="PNG", pnginfo=info)
        return part.replace(path) if path == output else put_new(part, path)


def put_new(part: Path, path: Path) -> Path:
    """Name a file `path`, or by the next number if another run took that one; return its path."""
    while True:
        try:
            os.link(part, path)
            return path
        except FileExistsError:
            path = numbered(path.parent)
        except OSError:  # a disk without links
            return part.rename(path)


def parameters(about: dict[str, Any]) -> str:
    """Return prompt and settings as AUTOMATIC1111 writes them, which many viewers can read."""
    if "prompt" not in about:
        return "\n".join(about["prompts"])
    numbers = {
        "Steps": about["steps"] or PUBLISHED_STEPS,
        "CFG scale": about["guidance"],
        "Decoder steps": about["decoder_steps"],
        "Decoder CFG scale": about["decoder_guidance"],
        "Seed": about["seed"],
        "Decoder seed": about["decoder_seed"],
        "Size": f"{about['width']}x{about['height']}",
        "Model": about["model"],
        "Prior": about["prior"],
        "Decoder": about["decoder"],
        "Stage A": about["stage_a"],
        "Image": about["image"],
        "Denoising strength": about["strength"],
        "LoRA": " ".join(about["lora"]) or None,
        "Version": f"wuerstchen {about['version']}",
    }
    line = ", ".join(f"{name}: {value}" for name, value in numbers.items() if value is not None)
    negative = f"Negative prompt: {about['negative']}\n" if about["negative"] else ""
    return f"{about['prompt']}\n{negative}{line}"


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a picture's file says about its making, by the names of the command's options.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no picture of the command.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            texts = dict(image.info)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture, could not decode it ({error})") from error
    if "wuerstchen" not in texts and {"workflow", "prompt"} & texts.keys():
        raise ValueError(f"{path} was made by a graph; drop it onto ComfyUI's window to open that")
    try:
        facts = json.loads(texts["wuerstchen"])
        settings = {name: facts[name] for name in vars(Settings()) if name in facts}
        found: dict[str, Any] = {**vars(Settings.from_words(settings))}
        found["wanted"] = [str(text) for text in facts.get("prompts") or [facts["prompt"]]]
        images = facts.get("images") or [facts.get("image")]
        found["image"] = [str(name) for name in images if name]
        told = (*SOURCES, "quantize")
        found |= {name: facts[name] for name in told if isinstance(facts.get(name), str)}
        found["lora"] = [str(lora) for lora in facts.get("lora", [])]
        frames = facts.get("interpolate")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected the settings that wuerstchen writes into its pictures, found none "
            f"that can be read ({type(error).__name__}: {error}); give a PNG of its own"
        ) from error
    return found | ({"interpolate": frames} if isinstance(frames, int) else {})


def contact_sheet(images: "Sequence[Image]", batch: int) -> "Image":
    """Return all images on one sheet: a row per prompt, or a near square if each has one image."""
    from PIL import Image

    columns = batch if batch > 1 else math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def names_file(output: Path) -> bool:
    """Whether `output` is the name of one picture and not of a folder."""
    return output.suffix.lower() == ".png" and not output.is_dir()


def numbered(folder: Path) -> Path:
    """Return the picture after the highest number in `folder`, which need not be there.

    Pictures that its manifest names are there or to come.
    """
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    if MANIFEST in names:
        text = (folder / MANIFEST).read_text(encoding="utf-8", errors="replace")
        names += re.findall(r'"file": "(.*?)"', text)
    numbers = [int(found[1]) for name in names if (found := NUMBERED.fullmatch(name))]
    return folder / f"{max(numbers, default=-1) + 1:05d}.png"


def check_output(output: Path, images: int, grid: bool) -> None:
    """Refuse an output that cannot take the pictures.

    Raises:
        ValueError: if it is no folder and no PNG name, or too many pictures go into one file.
        OSError: if it cannot be written (FileNotFoundError, NotADirectoryError, PermissionError).
    """
    if output.suffix.lower() in OTHER_PICTURES and not output.is_dir():
        raise ValueError(f"--output must be a folder or a name that ends in .png, got {output}")
    if names_file(output) and (images > 1 or grid):
        wanted = f"{images} images" if images > 1 else "an image and its --grid"
        raise ValueError(f"{wanted} need a folder as --output, got the file name {output}")
    place = (output.parent if names_file(output) else output).absolute()
    place = next((one for one in (place, *place.parents) if one.exists()), place)
    if not place.exists():
        raise FileNotFoundError(f"--output {output} is on a drive that is not there")
    if not place.is_dir():
        raise NotADirectoryError(f"--output must be in a folder, but {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"--output {output} cannot be written: no permission for {place}")
