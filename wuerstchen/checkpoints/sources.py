"""The name of a model or of one of its parts -> files on this machine.

A model is "mini" (bundled), "v2" (published) or a folder; a part of it is a weights file, a folder or
a Hub name. Layouts of folders: a component folder holds config.json and one weights file; a pipeline
folder holds model_index.json and component folders.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..checks import check_whole
from .files import COMPONENT_FILES, ENDINGS, SUFFIXES, CheckpointError, first_line, parsed
from .notation import parse_blend

NATIVE_SIZE = 1024
MINI = Path(__file__).parent.parent / "mini"
PRIOR_FOLDER, DECODER_FOLDER = "wuerstchen-prior", "wuerstchen"
PUBLISHED = "warp-ai/wuerstchen-prior", "warp-ai/wuerstchen"
PUBLISHED_COMPRESSOR = "warp-ai/EfficientNetEncoder"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Where diffusers saves prior and decoder as one pipeline, the prior's folders have other names.
JOINED = {"prior": "prior_prior"}


def published_pair(model: str | Path) -> tuple[str | Path, str | Path]:
    """Return the sources of prior and decoder that `model` stands for.

    Raises:
        CheckpointError: if it is a folder that does not hold both.
    """
    if model == "v2":
        return PUBLISHED
    folder = MINI if model == "mini" else Path(os.path.expanduser(model))
    if is_pipeline(folder) and component_file(folder / JOINED["prior"]):
        return folder, folder
    pair = folder / PRIOR_FOLDER, folder / DECODER_FOLDER
    missing = " or ".join(f"{part.name}/model_index.json" for part in pair if not is_pipeline(part))
    if missing:
        raise CheckpointError(
            f"{folder}: expected mini, v2 or a folder that holds {PRIOR_FOLDER} and "
            f"{DECODER_FOLDER} in the published layout, but found no {missing}; a single network "
            "is given as prior or decoder"
        )
    return pair


def homes(source: str | Path) -> tuple[str | Path, ...]:
    """Return the two sources that a model's name or folder stands for; any other source alone."""
    folder = Path(os.path.expanduser(source))
    named = source in ("mini", "v2") and not folder.exists()
    if named or all((folder / part).is_dir() for part in (PRIOR_FOLDER, DECODER_FOLDER)):
        return published_pair(source)
    return (source,)


def compressor_of(decoder: str | Path) -> str | Path:
    """Return the source of the compressor that goes with a decoder."""
    return PUBLISHED_COMPRESSOR if decoder == PUBLISHED[1] else decoder


def is_whole(source: str | Path) -> bool:
    """Whether `source` is a repository with all parts of its pipeline, and not one bare network.

    A blend is of networks alone.
    """
    return parse_blend(source) is None and is_pipeline(resolve(source))


def native_size(source: str | Path) -> int:
    """Return the side in pixels that a prior is for: its index's `native_size`, else 1024.

    Raises:
        CheckpointError: if the index says no whole number.
    """
    index = resolve(source) / "model_index.json"
    size = parsed(index.read_bytes(), index).get("native_size", NATIVE_SIZE)
    try:
        return check_whole("native_size", size, 1)
    except ValueError as error:
        raise CheckpointError(f"{index}: {error}; write the pixels of a side") from error


def locate(source: str | Path, folder: str) -> Path:
    """Return the weights file of the component whose published folder is `folder`.

    Raises:
        CheckpointError: if `source` is no file, folder or Hub name that has it.
    """
    names = [JOINED.get(folder, folder), folder]
    path = resolve(source, folders=["", *names])
    if path.is_file():
        return path
    if is_pipeline(path):
        inside = next((path / name for name in names if component_file(path / name)), None)
        if inside is None:
            held = ", ".join(file.parent.name for file in component_files(path)) or "no weights"
            raise CheckpointError(
                f"{source}: expected weights in its folder {folder}, found {held}; "
                "give the repository or file that has them (online, if it is on the Hub)"
            )
        path = inside
    file = component_file(path)
    if file is None:
        raise CheckpointError(
            f"{source}: expected model_index.json, or config.json with {COMPONENT_FILES[0]}, found "
            f"{listing(path)}; give a pipeline folder, a component folder or a weights file"
        )
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path}: expected config.json beside {file.name}, found {listing(path)}; "
            f"give the file {file} itself to have the sizes read off its tensors"
        )
    return file


def resolve(
    source: str | Path,
    *,
    folders: Sequence[str] = (),
    extras: Sequence[str] = (),
    download: bool = True,
) -> Path:
    """Return the local file or folder that `source` names.

    Of a Hub name only the index, the weights and configs in `folders` ("" is the root) and `extras`
    are fetched.

    Raises:
        CheckpointError: if there is no such path and no such Hub repository.
    """
    path = Path(os.path.expanduser(source))
    if path.exists():
        return path
    if isinstance(source, str) and HUB_NAME.fullmatch(source) and path.suffix not in SUFFIXES:
        return fetch(source, folders, extras, download)
    raise CheckpointError(
        f"{source}: expected a weights file, a folder or a Hub name owner/name, found nothing at "
        "this path; check the spelling"
    )


def fetch(name: str, folders: Sequence[str], extras: Sequence[str], download: bool) -> Path:
    """Return the Hub cache's folder of a repository, with the needed files in it.

    Raises:
        CheckpointError: if it cannot be fetched, or holds none of them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    folder = Path()
    places = [f"{inside}/" if inside else "" for inside in folders]
    try:
        for ending in ENDINGS:  # one only where a repository lacks those before it
            names = [name for name in COMPONENT_FILES if name[name.index(".") :] == ending]
            wanted = [place + name for place in places for name in ["config.json", *names]]
            patterns = ["model_index.json", *extras, *wanted]
            folder = Path(
                snapshot_download(name, allow_patterns=patterns, local_files_only=not download)
            )
            if not places or any(component_file(folder / place) for place in places):
                break
    except LocalEntryNotFoundError as error:
        reason = "the Hub cannot be reached" if download else "this command does not download"
        raise CheckpointError(
            f"{name}: expected a path or a cached Hub repository, found neither, and {reason}; "
            "load it once online (without HF_HUB_OFFLINE) or give a local path"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: expected a path or a Hub repository, found neither (or a private one); "
            "check the spelling"
        ) from error
    except Exception as error:  # a connection can break in many ways
        raise CheckpointError(
            f"{name}: could not be fetched from the Hub: {first_line(error)}; run it again, it goes on "
            "where it stopped"
        ) from error
    if not folder.is_dir():
        raise CheckpointError(
            f"{name}: expected {patterns[0]}, or config.json with {COMPONENT_FILES[0]}, found none of "
            "the files in this repository; download the one you want and give its path"
        )
    return folder


def is_pipeline(folder: Path) -> bool:
    """Whether `folder` has the index of a pipeline."""
    return (folder / "model_index.json").is_file()


def component_file(folder: Path) -> Path | None:
    """Return the weights file of a component folder, safetensors first; None if it has none."""
    return next((folder / name for name in COMPONENT_FILES if (folder / name).is_file()), None)


def component_files(path: Path) -> list[Path]:
    """Return all weights files of a file (itself), a component folder or a pipeline folder."""
    if path.is_file():
        return [path]
    inside = sorted(path.iterdir()) if is_pipeline(path) else [path]
    return [file for folder in inside if (file := component_file(folder))]


def listing(folder: Path) -> str:
    """Return the first names in `folder`, for messages."""
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "an empty folder"
