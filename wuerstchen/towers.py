"""Pipeline folder -> its text tower: the network, and the tokenizer by transformers."""

import math
from pathlib import Path
from typing import Any

from .checkpoints import sources
from .checkpoints.files import CheckpointError, first_line
from .checkpoints.loading import load_network
from .placement import Placement
from .text import TextTower


def load_text_tower(
    source: str | Path, placement: Placement, *, of_prior: bool = False
) -> TextTower:
    """Return the text tower of a pipeline.

    Args:
        source: pipeline folder or Hub name with the folders `text_encoder` and `tokenizer`.
        placement: precision, layer classes and resting place of its network.
        of_prior: whether it is Stage C's, where one folder holds both pipelines.

    Raises:
        CheckpointError: if a folder is missing or damaged, or the weights are not of a text tower.
    """
    starts = ["prior_", ""] if of_prior else [""]
    names = [f"{start}text_encoder" for start in starts]
    root = sources.resolve(
        source, folders=names, extras=[f"{start}tokenizer/*" for start in starts]
    )
    start = next((start for start in starts if (root / f"{start}text_encoder").is_dir()), "")
    folder, words = root / f"{start}text_encoder", root / f"{start}tokenizer"
    if sources.component_file(folder) is None or not words.is_dir():
        raise CheckpointError(
            f"{source}: expected a pipeline with folders text_encoder (config.json and weights) "
            f"and tokenizer, found {sources.listing(root) if root.is_dir() else 'a file'}; published "
            "are warp-ai/wuerstchen-prior and warp-ai/wuerstchen"
        )
    network: Any = load_network(folder, "text_encoder", placement)
    tokenizer = load_tokenizer(words, network.config.vocab_size)
    return TextTower(network, tokenizer, placement)


def load_tokenizer(folder: Path, vocab_size: int) -> Any:
    """Return the tokenizer in a folder, for a network with so large a vocabulary.

    Raises:
        CheckpointError: if it cannot be loaded, or its tokens do not fit the network.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers passes on whatever its readers raise
        raise CheckpointError(
            f"{folder}: transformers cannot load this tokenizer: {first_line(error)}"
        ) from error
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    numbers = tokenizer.get_vocab().values()
    if None in marks or not all(type(n) is int and 0 <= n < vocab_size for n in numbers):
        raise CheckpointError(
            f"{folder}: expected at most {vocab_size} tokens, as in the text_encoder beside, numbered "
            f"from 0, with a start, an end and padding, found {len(tokenizer)} and {marks}; take "
            "both from one repository"
        )
    length, least = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add()
    if type(length) not in (int, float) or not least < length < math.inf:
        raise CheckpointError(
            f"{folder}: expected a model_max_length above {least} in tokenizer_config.json, found "
            f"{length!r}; CLIP's is 77"
        )
    return tokenizer
