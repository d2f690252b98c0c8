"""Which files a model's name stands for: the bundled model, the published pair, or a folder."""

import os
from pathlib import Path

from .checks import check_whole
from .files import JOINED, CheckpointError, component_file, is_pipeline, parsed, resolve
from .notation import parse_blend

NATIVE_SIZE = 1024
MINI = Path(__file__).parent / "mini"
PRIOR_FOLDER, DECODER_FOLDER = "wuerstchen-prior", "wuerstchen"
PUBLISHED = "warp-ai/wuerstchen-prior", "warp-ai/wuerstchen"
PUBLISHED_COMPRESSOR = "warp-ai/EfficientNetEncoder"


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
