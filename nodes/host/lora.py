"""LoRA on Stage C and its text tower: the package reads and checks the file, the host patches.

The host's own loader knows some of the names that files use; the package knows them all and refuses
a file of which a part would be left out.
"""

from typing import Any

from comfy.weight_adapter import LoRAAdapter

from ...wuerstchen.lora.files import Update, load_lora
from ...wuerstchen.lora.names import PRIOR, TEXT
from .checks import check_model, check_tower
from .diffusion import HostedC

KEYS = {PRIOR: "diffusion_model.{}.weight", TEXT: "clip_g.transformer.{}.weight"}


def with_lora(
    model: Any, clip: Any, source: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """Return Stage C and its CLIP with the LoRA in the file `source`.

    Raises:
        CheckpointError: if the file is missing or damaged, or anything in it does not fit.
        ValueError: if `model` or `clip` is not Stage C's.
    """
    check_model(model, HostedC, "Würstchen Load Prior")
    lora = load_lora(source, model.model.diffusion_model, check_tower(clip))
    patches: dict[str, dict[str, Any]] = {PRIOR: {}, TEXT: {}}
    for (part, layer), update in lora.updates.items():
        patches[part][KEYS[part].format(layer)] = adapter(update)
    return (
        patched(model, patches[PRIOR], strength_model),
        patched(clip, patches[TEXT], strength_clip),
    )


def adapter(update: Update) -> Any:
    """Return an update as the host has it, which divides alpha by the rank by itself.

    It is copied out of its file, which may then be written anew.
    """
    alpha = update.scale * len(update.down)
    return LoRAAdapter(set(), (update.up.clone(), update.down.clone(), alpha, None, None, None))


def patched(owner: Any, patches: dict[str, Any], strength: float) -> Any:
    """Return a clone of a MODEL or CLIP with all of the patches.

    Raises:
        RuntimeError: if the host did not take one of them.
    """
    clone = owner.clone()
    left = patches.keys() - set(clone.add_patches(patches, strength))
    if left:
        raise RuntimeError(f"ComfyUI did not take {len(left)} of {len(patches)} patches: {left}")
    return clone
