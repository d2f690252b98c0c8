"""Pipeline folder -> its text tower: the network, and the tokenizer by transformers."""

from pathlib import Path

from . import files
from .checkpoints import load_network
from .files import CheckpointError, first_line
from .placement import Placement
from .text import TextTower


def load_text_tower(source: str | Path, placement: Placement) -> TextTower:
    """Return the text tower of a pipeline.

    Args:
        source: pipeline folder or Hub name with the folders `text_encoder` and `tokenizer`.
        placement: precision, layer classes and resting place of its network.

    Raises:
        CheckpointError: if a folder is missing or damaged, or the weights are not of a text tower.
    """
    from transformers import AutoTokenizer

    root = files.resolve(source, folders=["text_encoder"], extras=["tokenizer/*"])
    file = files.component_file(root / "text_encoder")
    if file is None or not (root / "tokenizer").is_dir():
        raise CheckpointError(
            f"{source}: expected a pipeline with folders text_encoder (config.json and weights) "
            f"and tokenizer, found {files.listing(root) if root.is_dir() else 'a file'}; published "
            "are warp-ai/wuerstchen-prior and warp-ai/wuerstchen"
        )
    network = load_network(file, "text_encoder", placement)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            root / "tokenizer", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers passes on whatever its readers raise
        raise CheckpointError(
            f"{root / 'tokenizer'}: transformers cannot load this tokenizer: {first_line(error)}"
        ) from error
    return TextTower(network, tokenizer, placement)
