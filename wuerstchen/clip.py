"""Pipeline folder -> its CLIP text tower and tokenizer, which are those of transformers.

Weights are checked key by key before transformers reads them, since it fills in what is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import files
from .files import CheckpointError, first_line
from .placement import Placement
from .recognise import compare, recognise

# Keys that are left out on purpose, without their `text_model.` prefix, and why.
DROPPED = {"embeddings.position_ids": "the numbers 0 to 76, which transformers makes itself"}


def load_text_tower(source: str | Path, placement: Placement) -> tuple[Any, Any]:
    """Return the CLIP text tower of a pipeline and its tokenizer, both of transformers.

    Args:
        source: pipeline folder or Hub name with the folders `text_encoder` and `tokenizer`.
        placement: precision and resting place; the layers are those of transformers.

    Raises:
        CheckpointError: if a folder is missing or damaged, or the weights are not of this tower.
    """
    from transformers import AutoTokenizer, CLIPTextModel

    root = files.resolve(source, folders=["text_encoder"], extras=["tokenizer/*"])
    folder = root / "text_encoder"
    file = files.component_file(folder)
    if file is None or not (root / "tokenizer").is_dir():
        raise CheckpointError(
            f"{source}: expected a pipeline with folders text_encoder (config.json and weights) "
            f"and tokenizer, found {files.listing(root) if root.is_dir() else 'a file'}; published "
            "are warp-ai/wuerstchen-prior and warp-ai/wuerstchen"
        )
    check_text_tower(file)
    try:
        with no_bars():
            loaded: Any = CLIPTextModel.from_pretrained(
                folder, local_files_only=True, dtype=placement.dtype, output_loading_info=True
            )
        tokenizer = AutoTokenizer.from_pretrained(
            root / "tokenizer", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers passes on whatever its readers raise
        raise CheckpointError(
            f"{root}: transformers cannot load this text tower: {first_line(error)}"
        ) from error
    tower, report = loaded
    if report["missing_keys"]:
        raise CheckpointError(
            f"{file}: transformers left {min(report['missing_keys'])} without weights"
        )
    return placement.settle(tower.eval().requires_grad_(False)), tokenizer


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers from showing a bar for what takes milliseconds."""
    from transformers import utils

    logging: Any = utils.logging  # its functions are untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_text_tower(file: Path) -> None:
    """Refuse weights that are not, key by key, those of the config beside them."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = files.read(file)[0]
    if weights.config is None:
        raise CheckpointError(
            f"{file.parent}: expected config.json beside {file.name}, found "
            f"{files.listing(file.parent)}; add the one that belongs to it"
        )
    try:
        with torch.device("meta"):
            tower = CLIPTextModel(CLIPTextConfig.from_dict(weights.config))
    except Exception as error:  # transformers passes on whatever a wrong entry raises
        raise CheckpointError(
            f"{file.parent}: expected the config.json of a CLIP text tower, found "
            f"{first_line(error)}"
        ) from error
    # transformers 5 writes the keys without the prefix that the published files have
    given = {key.removeprefix("text_model."): tensor for key, tensor in weights.tensors.items()}
    wanted = {key.removeprefix("text_model."): tensor for key, tensor in tower.state_dict().items()}
    differences = compare(
        wanted, {key: tensor for key, tensor in given.items() if key not in DROPPED}
    )
    if differences:
        raise CheckpointError(
            f"{file}: expected a CLIP text tower as in its config.json, found "
            f"{recognise(weights.shapes).name} with {differences}; "
            "take text_encoder from warp-ai/wuerstchen-prior or warp-ai/wuerstchen"
        )
