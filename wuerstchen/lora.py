"""LoRA: small updates of Stage C and of its text tower, read from a file, merged and taken out.

For some layers a LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1) holds two thin matrices. The
layer's weight W becomes W + strength · alpha / rank · up · down; a file without alpha means
alpha = rank. Files name parts and layers in many ways, alike for both networks:

    prior.blocks.2.attention.processor.to_q_lora.down.weight    diffusers until 0.24
    prior.blocks.2.attention.to_q.lora_A.weight                 PEFT; with any of `PREFIXES` or none
    lora_unet_blocks_2_attention_to_q.lora_down.weight          kohya
    text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight
    lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight

Names of the authors' layout are known too, with queries, keys and values joined in one matrix.

Shapes: up (rows, rank), down (rank, columns); those of a convolution have its kernel's sides
behind. PyTorch is imported when a file is read, so that words of the command line cost nothing.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .files import CheckpointError, Weights

PRIOR, TEXT = "prior", "text_encoder"
FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
CONFIG_FILE, CONFIG_ENTRY = "adapter_config.json", "lora_adapter_metadata"
EXPECTED = "a LoRA for Würstchen v2's Stage C (the prior) and its text tower"
ADVICE = "take one that was trained on this prior (published: warp-ai/wuerstchen-prior)"

# What comes before a layer's name, also one after the other. A kohya LoRA for Stable Cascade has
# lora_prior_unet_ and lora_prior_te_ instead: its text tower is of the same sizes as ours.
PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "prior.",
    "unet.",
    "text_encoder.",
    "text_model.",
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "text_model_",
)
MATRIX = re.compile(
    r"(?P<layer>.+?)(?:[._]lora|\.lora_linear_layer)[._](?P<role>A|B|down|up)(?:\.\w+)?\.weight"
)
ALPHA = re.compile(
    r"(?P<layer>.+?)(?:(?:[._]lora|\.lora_linear_layer)(?:[._](?:A|B|down|up)\.weight)?)?\.alpha"
)
ROLES = {"A": "down", "B": "up"}
OTHER_NAMES = (
    (".attention.to_out.0", ".attention.to_out"),
    (".attention.to_out.0", ".attention.attn.out_proj"),
    (".self_attn.q_proj", ".self_attn.to_q"),
    (".self_attn.k_proj", ".self_attn.to_k"),
    (".self_attn.v_proj", ".self_attn.to_v"),
    (".self_attn.out_proj", ".self_attn.to_out"),
)
JOINED, PARTS_OF_JOINED = (".attn", ".attn.in_proj"), (".to_q", ".to_k", ".to_v")

# What a file is that has a key like this; the first that fits.
FAMILIES = {
    r".*(hada_|lokr_|oft_|dora_scale|lora_magnitude_vector|lora_mid)": "a LoHa, LoKr or DoRA, "
    "whose updates are no plain product",
    r"lora_prior_(unet|te)_": "a LoRA for Stable Cascade",
    r".*(down|up)_blocks[._]\d+[._]\d+[._](attention|channelwise|depthwise|(kv_)?mapper)[._]": "a "
    "LoRA for Stable Cascade",
    r".*([a-z]+_blocks?[._].*(attentions|resnets)|(in|out)put_blocks|middle_block)": "a LoRA for "
    "Stable Diffusion",
    r".*(transformer|double|single|joint)_blocks": "a LoRA for a diffusion transformer",
}


class Target(NamedTuple):
    """A layer of a network: `part` is `PRIOR` or `TEXT`, `layer` the module's own name there."""

    part: str
    layer: str


Shapes = Mapping[Target, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a LoRA adds to one weight: `scale` (alpha / rank) times `up` times `down`."""

    up: "Tensor"
    down: "Tensor"
    scale: float


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA whose every update fits the networks that it was loaded for."""

    path: Path
    updates: dict[Target, Update]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file holds for one name: tensors by role, for one layer or for three that are joined.

    Roles are "up", "down" and "alpha".
    """

    name: str
    targets: tuple[Target, ...]
    tensors: "dict[str, Tensor]"


class Loras:
    """The LoRAs that are merged into Stage C and its text tower, in the order of their adding.

    Merging does not write into a weight: the layer gets a new one, and the one it had is kept until
    `clear` puts it back. In memory are thus the touched weights a second time, where they rest (a
    third while one more is added); those that are mapped from a file stay so. To be used between
    runs, not during one.
    """

    def __init__(self, stage_c: "nn.Module", text_tower: "nn.Module | None" = None) -> None:
        self.networks = {PRIOR: stage_c, TEXT: text_tower}
        self.added: list[tuple[Lora, float]] = []
        self._originals: dict[Target, Any] = {}

    def add(self, source: str | Path, strength: float = 1.0) -> Lora:
        """Merge one more LoRA, wholly or, if it is refused, not at all; return it.

        A weight is its original plus the updates of all LoRAs, summed in float32 in the order of
        adding and cast once. With strength 0 only, it is the original.

        Args:
            source: as for `load_lora`.
            strength: any finite number; below 0 leads away from what the LoRA was trained on.

        Raises:
            CheckpointError: as for `load_lora`.
            ValueError: if the strength is not finite, or too great for the weights' precision.
        """
        if not math.isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        lora = load_lora(source, self.networks[PRIOR], self.networks[TEXT])
        originals = {t: self._originals.get(t, self._layer(t).weight) for t in lora.updates}
        added = [*self.added, (lora, strength)]
        weights = {t: merged(weight, updates_of(t, added)) for t, weight in originals.items()}
        for target, weight in weights.items():
            if not weight.isfinite().all():
                raise ValueError(
                    f"strength must keep the weights finite, got {strength}, with which "
                    f"{target.layer} is beyond {weight.dtype}; take a smaller one for {lora.path}"
                )
        self._originals |= originals
        self._put(weights)
        self.added = added
        return lora

    def clear(self) -> None:
        """Take all LoRAs out: every layer has its very own weight again."""
        self._put(self._originals)
        self.added, self._originals = [], {}

    def _layer(self, target: Target) -> Any:
        network: Any = self.networks[target.part]
        return network.get_submodule(target.layer)

    def _put(self, weights: "Mapping[Target, nn.Parameter]") -> None:
        for target, weight in weights.items():
            self._layer(target).weight = weight


def parse_lora(text: str) -> tuple[str, float]:
    """Return source and strength of "SOURCE" or "SOURCE:STRENGTH"; without a strength it is 1.

    Only what is a number is a strength: "C:\\x.safetensors" and "a:b" are sources.

    Raises:
        ValueError: if there is no source or the strength is not finite.
    """
    source, colon, last = text.rpartition(":")
    if not colon or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", last):
        source, last = text, "1"
    strength = float(last)
    if not source.strip() or not math.isfinite(strength):
        raise ValueError(
            f"a LoRA must be SOURCE or SOURCE:STRENGTH, such as a.safetensors:0.8, got {text!r}"
        )
    return source, strength


def load_lora(
    source: str | Path, stage_c: "nn.Module | None", text_tower: "nn.Module | None" = None
) -> Lora:
    """Return a LoRA, by the layers' own names.

    Args:
        source: weights file, a folder that holds one of `FILES`, or a Hub name.
        stage_c: the network that the LoRA is for; only the shapes of its weights are read.
        text_tower: CLIP's text tower before Stage C, of transformers, likewise.

    Raises:
        CheckpointError: if the source is missing or damaged, or anything in it does not fit.
    """
    from .files import CheckpointError, first_line, read

    path = locate(source)
    weights = read(path)[0]
    shapes = {
        Target(part, key.removesuffix(".weight")): tuple(tensor.shape)
        for part, network in ((PRIOR, stage_c), (TEXT, text_tower))
        if network is not None
        for key, tensor in network.state_dict().items()
        if key.endswith(".weight") and tensor.ndim > 1
    }
    found = sorted_out(weights, addresses(shapes))
    if differences := faults(found, shapes):
        raise CheckpointError(f"{path}: expected {EXPECTED}, found {differences}; {ADVICE}")
    config = adapter_config(path)
    try:
        return Lora(path=path, updates={t: u for f in found for t, u in split(f, config)})
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{path}: expected PEFT's adapter config with numbers for lora_alpha, found "
            f"{first_line(error)}; take the file without its {CONFIG_FILE} or header"
        ) from error


def locate(source: str | Path) -> Path:
    """Return the weights file that `source` names."""
    from .files import CheckpointError, listing, resolve

    path = resolve(source, extras=[*FILES, CONFIG_FILE])
    if path.is_file():
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{source}: expected a LoRA file or a folder with {FILES[0]}, found {listing(path)}; "
            "give the file itself"
        )
    return file


def addresses(shapes: Shapes) -> dict[str, tuple[Target, ...]]:
    """Return which layers each name stands for that a file may use, without its prefix."""
    names: dict[str, tuple[Target, ...]] = {}
    for target in shapes:
        own = target.layer.removeprefix("text_model.")
        others = [own.removesuffix(end) + other for end, other in OTHER_NAMES if own.endswith(end)]
        names |= dict.fromkeys((own, *others), (target,))
        block, queries, _ = target.layer.rpartition(".to_q")
        if queries:
            parts = tuple(Target(target.part, block + end) for end in PARTS_OF_JOINED)
            names |= dict.fromkeys((block + end for end in JOINED), parts)
    return names | {name.replace(".", "_"): targets for name, targets in names.items()}


def sorted_out(weights: "Weights", names: Mapping[str, tuple[Target, ...]]) -> list[Found]:
    """Return the file's tensors by layer; all of them belong to one.

    Raises:
        CheckpointError: if one does not, or is there twice.
    """
    from .files import CheckpointError
    from .recognise import shortened

    found: dict[tuple[Target, ...], Found] = {}
    strangers, twins = [], []
    for key, tensor in weights.tensors.items():
        match = MATRIX.fullmatch(key) or ALPHA.fullmatch(key)
        targets = names.get(bare(match["layer"])) if match else None
        if match is None or targets is None:
            strangers.append(key)
            continue
        role = match.groupdict().get("role", "alpha")
        entry = found.setdefault(targets, Found(name=match["layer"], targets=targets, tensors={}))
        if entry.tensors.setdefault(ROLES.get(role, role), tensor) is not tensor:
            twins.append(key)
    if strangers or not found:
        raise refusal(weights, strangers)
    joined = {target for targets in found if len(targets) > 1 for target in targets}
    twins += [
        entry.name for (target, *more), entry in found.items() if not more and target in joined
    ]
    if twins:
        raise CheckpointError(
            f"{weights.place}: expected {EXPECTED}, found more than one update for the same layer "
            f"({shortened(twins)}); save each LoRA as a file of its own"
        )
    return list(found.values())


def bare(name: str) -> str:
    """Return a layer's name in a file without what comes before it."""
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name.replace(".processor.", ".")


def refusal(weights: "Weights", strangers: Sequence[str]) -> "CheckpointError":
    """Return the error for a file with keys that fit no layer, or without any of a LoRA."""
    from .files import CheckpointError
    from .recognise import recognise, shortened

    family = next(
        (name for kind, name in FAMILIES.items() if any(re.match(kind, key) for key in strangers)),
        "",
    )
    if not family and not any(MATRIX.fullmatch(key) for key in weights.tensors):
        what = recognise(weights.shapes).name
        family = "no LoRA known here" if what == "unknown" else what
    this = f"this is {family}" if family else "found one for other layers"
    keys = f"{len(strangers)} of {len(weights.tensors)} keys fit no layer"
    if strangers:
        keys += f": {shortened(list(strangers))}"
    return CheckpointError(f"{weights.place}: expected {EXPECTED}, {this} ({keys}); {ADVICE}")


def faults(found: Sequence[Found], shapes: Shapes) -> str:
    """Return in words what is wrong with the tensors of a file, "" if nothing is."""
    from .recognise import shortened

    groups: dict[str, list[str]] = {}
    for entry in found:
        tensors = entry.tensors
        missing = [role for role in ("up", "down") if role not in tensors]
        if missing:
            groups.setdefault(f"without {' and '.join(missing)}", []).append(entry.name)
            continue
        if wrong := misshapen(entry, shapes):
            groups.setdefault("misshapen", []).append(f"{entry.name} {wrong}")
        floats = tensors["up"].is_floating_point() and tensors["down"].is_floating_point()
        if not floats or not all(t.float().isfinite().all() for t in tensors.values()):
            groups.setdefault("with other than finite floats", []).append(entry.name)
    return "; ".join(
        f"{len(names)} layers {word} ({shortened(names)})" for word, names in groups.items()
    )


def misshapen(entry: Found, shapes: Shapes) -> str:
    """Return the wrong shapes in words, "" if they are right."""
    up, down = entry.tensors["up"], entry.tensors["down"]
    rows = sum(shapes[target][0] for target in entry.targets)
    columns = math.prod(shapes[entry.targets[0]][1:])
    rank = len(down) if down.ndim else 0
    alpha = entry.tensors.get("alpha")
    if (rank > 0 and up.ndim > 1 and down.ndim > 1) and (
        (len(up), math.prod(up.shape[1:]), math.prod(down.shape[1:])) == (rows, rank, columns)
    ):
        return "" if alpha is None or alpha.numel() == 1 else f"alpha {list(alpha.shape)}"
    return f"up {list(up.shape)} and down {list(down.shape)} for {rows} rows, {columns} columns"


def split(entry: Found, config: Mapping[str, Any]) -> Iterator[tuple[Target, Update]]:
    """Yield the update of each layer that an entry is for."""
    up, down = entry.tensors["up"].detach(), entry.tensors["down"].detach()
    rank = len(down)
    if "alpha" in entry.tensors:
        scale = float(entry.tensors["alpha"]) / rank
    else:
        scale = adapter_scale(config, entry.targets[0], rank)
    for target, rows in zip(entry.targets, up.chunk(len(entry.targets)), strict=True):
        yield target, Update(up=rows, down=down, scale=scale)


def adapter_config(path: Path) -> dict[str, Any]:
    """Return what PEFT wrote of a LoRA in the file's header or beside it, nothing if it did not."""
    from safetensors import safe_open

    from .files import SAFE, parsed

    beside = path.with_name(CONFIG_FILE)
    if path.name.startswith("adapter_model.") and beside.is_file():
        return parsed(beside.read_bytes(), beside)
    if path.suffix.lower() not in SAFE:
        return {}
    with safe_open(path, framework="pt") as file:
        entry = (file.metadata() or {}).get(CONFIG_ENTRY)
    return {} if entry is None else parsed(entry, path)


def adapter_scale(config: Mapping[str, Any], target: Target, rank: int) -> float:
    """Return PEFT's scale of a layer: alpha / rank, or alpha / √rank if the config says so.

    Entries have the part's name before them where a file has several parts.

    Raises:
        ValueError: if it is not a finite number; also AttributeError, TypeError or re.error.
    """

    def entry(name: str, otherwise: Any) -> Any:
        parts = (f"{target.part}.", "unet." if target.part == PRIOR else "", "")
        return next((config[p + name] for p in parts if p + name in config), otherwise)

    alpha = entry("lora_alpha", rank)
    for pattern, own in (entry("alpha_pattern", None) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", target.layer):
            alpha = own
            break
    scale = float(alpha) / (math.sqrt(rank) if entry("use_rslora", False) else rank)
    if not math.isfinite(scale):
        raise ValueError(f"lora_alpha {alpha}")
    return scale


def updates_of(target: Target, added: Sequence[tuple[Lora, float]]) -> list[tuple[Update, float]]:
    """Return the updates of one layer with their strengths, without those of strength 0."""
    return [(lora.updates[target], s) for lora, s in added if s and target in lora.updates]


def merged(weight: "nn.Parameter", updates: Sequence[tuple[Update, float]]) -> "nn.Parameter":
    """Return `weight` plus the updates, on its device and in its dtype; itself without any."""
    from torch import nn

    if not updates:
        return weight
    total = sum(strength * delta(update, weight) for update, strength in updates)
    summed = weight.detach().float() + total
    return nn.Parameter(summed.to(weight.dtype), weight.requires_grad)


def delta(update: Update, like: "Tensor") -> "Tensor":
    """Return an update in float32, on the device and in the shape of `like`."""
    up, down = (part.to(like.device).float().flatten(1) for part in (update.up, update.down))
    return (update.scale * (up @ down)).view(like.shape)
