"""Text towers as CLIP: the host's own, with Würstchen's way of reading them.

Of the last layer, after its final norm, with padding that sees the prompt alone.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor

from ...wuerstchen.checkpoints.configs import HEAD_DIM
from ...wuerstchen.checkpoints.files import CheckpointError, Weights, first_line, read
from ...wuerstchen.checkpoints.loading import built, interpret
from ...wuerstchen.checkpoints.recognise import recognise, shortened
from ...wuerstchen.placement import DTYPES
from ...wuerstchen.prompt_files import text_rows

PUBLISHED_TOKENS = {"start": 49406, "end": 49407, "pad": 49407}
BODY = (
    "embeddings.token_embedding.",
    "embeddings.position_embedding.",
    "encoder.",
    "final_layer_norm.",
)
TABLE = "text_model.embeddings.token_embedding.weight"


def text_tower(
    source: str, name: str, weight_dtype: str, embeddings: list[str], **loading: Any
) -> Any:
    """Return the CLIP of a text tower.

    Args:
        source: weights file; a tokenizer of its own may lie in `../tokenizer`, else CLIP's is meant.
        name: "g" for Stage C's, "h" for Stage B's; LoRA files call them so.
        weight_dtype: one of `WEIGHT_DTYPES`; any other word is as default.
        embeddings: folders of textual inversions.
        loading: `disable_dynamic`, where a newer host asks for another copy.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    tensors, sizes = read_tower(Path(source))
    target = clip_target(name, sizes, own_tokenizer(Path(source), sizes["vocab_size"]))
    options = {"dtype": DTYPES[weight_dtype]} if weight_dtype in DTYPES else {}
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, model_options=options, **loading)
    clip.patcher.cached_patcher_init = (patcher_of, (source, name, weight_dtype, embeddings))
    tensors["text_projection.weight"] = torch.eye(sizes["hidden_size"])  # the pooled text: not used
    missing, unexpected = clip.load_sd(tensors)
    if missing or unexpected:
        raise CheckpointError(
            f"{source}: expected a whole CLIP text tower, found {len(missing)} keys missing "
            f"({shortened(missing)}) and {len(unexpected)} unexpected ({shortened(unexpected)})"
        )
    return clip


def patcher_of(*tower: Any, **loading: Any) -> Any:
    """Return the patcher of `text_tower`, for a host that asks for another copy."""
    return text_tower(*tower, **loading).patcher


def read_tower(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a text tower under the published names, and its sizes.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    weights = read(path)[0]
    tensors = published(weights.tensors)
    if TABLE not in tensors:
        name = recognise(weights.shapes).name
        raise CheckpointError(
            f"{path}: expected a CLIP text tower, this is {name} "
            f"({shortened(list(weights.tensors))}); take text_encoder/model.safetensors of "
            "warp-ai/wuerstchen-prior for the prior, of warp-ai/wuerstchen for the decoder"
        )
    sizes = sizes_of(tensors, weights.config or {})
    check_sizes(replace(weights, tensors=tensors, config=sizes))
    return tensors, sizes


def own_tokenizer(path: Path, vocabulary: int) -> Path | None:
    """Return the tokenizer's folder that belongs to a tower's file, None if CLIP's is meant.

    Raises:
        CheckpointError: if there is none, and CLIP's has another vocabulary.
    """
    folder = path.parent.parent / "tokenizer"
    if (folder / "vocab.json").is_file():
        return folder
    if vocabulary != PUBLISHED_TOKENS["end"] + 1:
        raise CheckpointError(
            f"{path}: expected a tokenizer for {vocabulary} tokens in {folder}, found none; "
            "put it there, with the text tower in text_encoder beside"
        )
    return None


def clip_target(name: str, sizes: dict[str, Any], tokenizer: Path | None) -> Any:
    """Return what the host makes a CLIP of: how the prompt is read, and the network."""
    tower = partial(
        comfy.sd1_clip.SDClipModel,
        layer="last",
        textmodel_json_config=sizes,
        model_class=Tower,
        special_tokens=special_tokens(tokenizer, sizes["vocab_size"]),
        enable_attention_masks=True,
        return_projected_pooled=False,
    )
    words = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=None if tokenizer is None else str(tokenizer),
        embedding_size=sizes["hidden_size"],
        embedding_key=f"clip_{name}",
    )
    return comfy.supported_models_base.ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, clip_name=name, tokenizer=words),
        partial(comfy.sd1_clip.SD1ClipModel, clip_name=name, clip_model=tower),
    )


def encode(clip: Any, text: str) -> Any:
    """Return the CONDITIONING of `text`; what goes beyond 75 tokens is read in further chunks."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_lines(clip: Any, text: str) -> tuple[Any, int]:
    """Return the CONDITIONING of a prompt per line, a row for each, and their number.

    Raises:
        ValueError: if there is no prompt, not all are of one length, or the CLIP is scheduled.
    """
    lines = [(number, row["prompt"]) for number, row in text_rows(text)]
    if not lines:
        raise ValueError("text must hold a prompt per line, got none")
    encodings = [encode(clip, prompt) for _, prompt in lines]
    if any(len(encoding) > 1 for encoding in encodings):
        raise ValueError(
            "clip must not change during a run; schedule hooks on one prompt at a time"
        )
    encoded = [encoding[0] for encoding in encodings]
    tokens = [one.shape[1] for one, _ in encoded]
    for (number, _), count in zip(lines, tokens, strict=True):
        if count != tokens[0]:
            raise ValueError(
                f"all lines must be of one length, got {tokens[0]} tokens in line {lines[0][0]} and "
                f"{count} in line {number}; encode long prompts on their own"
            )
    return [[torch.cat([one for one, _ in encoded]), encoded[0][1]]], len(lines)


class Tower(comfy.clip_model.CLIPTextModel):
    """The host's text tower, for any number of tokens in the vocabulary."""

    def __init__(self, config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        table = self.get_input_embeddings()
        wanted = (config["vocab_size"], config["hidden_size"])
        if (table.num_embeddings, table.embedding_dim) != wanted:
            self.set_input_embeddings(operations.Embedding(*wanted, dtype=dtype, device=device))


def published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tower's tensors under the published names; transformers 5 leaves out a prefix."""
    bare = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    return {f"text_model.{key}": tensor for key, tensor in bare.items() if key.startswith(BODY)}


def sizes_of(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes as the host asks for them: from config.json, else from the tensors."""
    vocabulary, hidden = (*tensors[TABLE].shape, 0, 0)[:2]  # of another rank: refused later
    layers = {key.split(".")[3] for key in tensors if key.startswith("text_model.encoder.layers.")}
    inner = tensors.get("text_model.encoder.layers.0.mlp.fc1.weight", tensors[TABLE])
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": config.get("num_attention_heads", max(1, hidden // HEAD_DIM)),
        "intermediate_size": (*inner.shape, 0)[0],
        "hidden_act": config.get("hidden_act", "gelu"),
        "max_position_embeddings": 77,
        "eos_token_id": vocabulary - 1,
    }


def check_sizes(weights: Weights) -> None:
    """Refuse a tower whose tensors and sizes do not fit, as the package's own reader does.

    Raises:
        CheckpointError: with what does not.
    """
    sizes, known = weights.config or {}, list(comfy.clip_model.ACTIVATIONS)
    if sizes["hidden_act"] not in known:
        raise CheckpointError(
            f"{weights.place}: expected a CLIP text tower with hidden_act one of "
            f"{', '.join(known)}, found {sizes['hidden_act']!r}; take its own config.json"
        )
    as_ours = replace(weights, config={**sizes, "hidden_act": "gelu"})
    built(interpret(as_ours, "text_encoder"), torch.nn)


def special_tokens(folder: Path | None, vocabulary: int) -> dict[str, int]:
    """Return the numbers that start, end and pad a prompt, by the tokenizer in `folder`.

    Raises:
        CheckpointError: if the host cannot load it, or it has numbers beyond the `vocabulary`.
    """
    if folder is None:
        return PUBLISHED_TOKENS
    try:
        words = comfy.sd1_clip.SDTokenizer(str(folder))
    except Exception as error:  # transformers passes on whatever its readers raise
        raise CheckpointError(
            f"{folder}: the host cannot load this tokenizer ({first_line(error)}); take the one of "
            "the text tower beside"
        ) from error
    if not all(0 <= number < vocabulary for number in words.inv_vocab):
        raise CheckpointError(
            f"{folder}: expected a tokenizer with numbers from 0 to {vocabulary - 1}, found "
            f"{max(words.inv_vocab)}; take the one of the text tower beside"
        )
    return {"start": words.start_token, "end": words.end_token, "pad": words.pad_token}
