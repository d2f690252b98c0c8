"""Stage C and Stage B as MODEL: our networks on the host's layers, called once per step.

The host calls `Model.extra_conds` once per conditioning and run. What it returns, a `StageCond`, is
put together with others for each call of the network, for which the host then puts its patches into the
weights; `Model.constants` prepares the network's constants of each such composition once per run.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...wuerstchen.allocator import kept_memory
from ...wuerstchen.arithmetic import drop_packed, keep_packed
from ...wuerstchen.checkpoints.files import METADATA_CONFIG
from ...wuerstchen.checkpoints.loading import find_kind, load_network
from ...wuerstchen.stage_b import StageB
from ...wuerstchen.stage_c import StageC
from ...wuerstchen.tiling import Window, cut
from .checks import check_area, check_channels, check_patches, check_semantic, check_text
from .constants import NO_FRAME, Constants, StageCond, framed, on_grid
from .placement import STORED, SUPPORTED, HostPlacement
from .previews import colour
from .schedule import Schedule, SemanticFormat, VQFormat, check_schedule

SEMANTIC = "stable_cascade_prior"  # the host's key: its own Stage B conditioning node serves too
COPIES = 16  # tensors of a map's width that are alive at once, about


def diffusion_model(
    source: str, kind: str, weight_dtype: str, disable_dynamic: bool = False
) -> Any:
    """Return the MODEL of the network `kind` ("stage_c" or "stage_b") in the file `source`.

    With `disable_dynamic` the host loads it the older way; it asks for that itself where it needs
    weights of their own, for several devices or for LoRA that changes from step to step.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    device, offload = management.get_torch_device(), management.unet_offload_device()
    stored = STORED.get(weight_dtype) or management.unet_dtype(
        device=device, model_params=parameters(source, kind), supported_dtypes=SUPPORTED
    )
    cast_to = management.unet_manual_cast(stored, device, SUPPORTED)
    placement = HostPlacement(dtype=stored, manual_cast=cast_to)
    hosted = {"stage_c": HostedC, "stage_b": HostedB}[kind]
    model = Model(load_network(source, kind, placement, hosted), placement.precision).to(offload)
    older = comfy.model_patcher.ModelPatcher
    newer = getattr(comfy.model_patcher, "CoreModelPatcher", older)  # set anew when the host starts
    patcher = (older if disable_dynamic else newer)(model, device, offload)
    patcher.cached_patcher_init = (diffusion_model, (source, kind, weight_dtype))
    patcher.add_callback_with_key(CallbacksMP.ON_LOAD, "wuerstchen", patch_norms)
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, "wuerstchen", forget)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "wuerstchen", keeping_memory)
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "wuerstchen", without_repeats)
    return patcher


def parameters(source: str, kind: str) -> int:
    """Return how many numbers the network `kind` in the file `source` has.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    return sum(tensor.numel() for tensor in find_kind(source, kind).tensors.values())


def keeping_memory(executor: Any, *given: Any, **others: Any) -> Any:
    """Run a sampler, on a CPU with memory that lasts from step to step."""
    with kept_memory(management.get_torch_device()):
        return executor(*given, **others)


def without_repeats(executor: Any, guider: Any, sigmas: Tensor, *given: Any, **others: Any) -> Any:
    """Run a sampler on sigmas that differ: where two are equal, many of the host's divide by 0.

    Lists of more than 155 have such, since the schedule is flat at its ends.
    """
    return executor(guider, sigmas.unique_consecutive(), *given, **others)


def patch_norms(patcher: Any, device: Any, *_: Any) -> None:
    """Patch the norms' own numbers, which the host leaves out where it loads a network in part."""
    for key in patcher.patches:
        if key.endswith((".gamma", ".beta")):
            if key in patcher.backup:
                comfy.utils.set_attr_param(patcher.model, key, patcher.backup[key].weight)
            patcher.patch_weight_to_device(key, device)


def forget(patcher: Any) -> None:
    """Drop what was kept for the run that ends, be it by an error."""
    patcher.model.run.clear()
    drop_packed(patcher.model.diffusion_model)


class FamilyC(comfy.supported_models_base.BASE):
    """What the host asks of Stage C's family."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (the host's own attribute)
    sizes: dict[str, Any] | None = None
    latent_format = SemanticFormat

    def process_unet_state_dict_for_saving(
        self, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what the host saves of a network, with sizes that are not the published ones."""
        if self.sizes:
            written = json.dumps(self.sizes).encode()
            state_dict = {**state_dict, METADATA_CONFIG: torch.tensor(list(written)).byte()}
        saved: dict[str, Tensor] = super().process_unet_state_dict_for_saving(state_dict)
        return saved


class FamilyB(FamilyC):
    """What the host asks of Stage B's family."""

    latent_format = VQFormat


class Hosted:
    """How the host calls a network of ours, once per step."""

    dtype = torch.float32  # of x and of what is returned; the precision within is the constants'
    config: Any
    step: Callable[..., Tensor]

    @property
    def in_channels(self) -> int:
        """Channels of the latent, which some of the host's nodes ask for."""
        return cast(int, self.config.c_in)

    def forward(self, x: Tensor, timestep: Tensor, **given: Any) -> Tensor:
        options = given.get("transformer_options", {})
        check_patches(options)
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self.unwrapped, self, wrappers)
        noise: Tensor = executor.execute(x, timestep, **given)
        return noise

    def unwrapped(self, x: Tensor, timestep: Tensor, *, constants: Constants, **_: Any) -> Tensor:
        """Return what the network says, without what other nodes put around it."""
        return framed(lambda y: self.step(y, timestep, constants.prepared), x, constants.frame)


class HostedC(Hosted, StageC):
    """Stage C as the host calls it."""

    label, loader, family = "Stage C", "Würstchen Load Prior", FamilyC

    @property
    def text_width(self) -> int:
        """Features of a token."""
        return self.config.c_cond

    @property
    def width(self) -> float:
        """Numbers per cell of the latent in the widest map."""
        return self.config.c


class HostedB(Hosted, StageB):
    """Stage B as the host calls it."""

    label, loader, family = "Stage B", "Würstchen Load Decoder", FamilyB

    @property
    def text_width(self) -> int:
        """Features of a token."""
        return self.config.clip_embd

    @property
    def width(self) -> float:
        """Numbers per cell of the latent in the widest map."""
        patch = self.config.patch_size
        return max(c / (patch * 2**i) ** 2 for i, c in enumerate(self.config.c_hidden))


class Model(comfy.model_base.BaseModel):
    """Stage C or Stage B as the host's model."""

    def __init__(self, network: Any, precision: torch.dtype) -> None:
        kind = comfy.model_base.ModelType.EPS
        super().__init__(network.family({}), kind, unet_model=lambda **_: network)
        self.model_sampling = Schedule()
        if network.config != type(network.config)():
            self.model_config.sizes = asdict(network.config)
        colour(self.latent_format, network)
        self.own_precision = precision
        self.run: dict[Any, Constants] = {}

    @property
    def precision(self) -> torch.dtype:
        """The precision that the network computes in: the one that a node gave it, else its own."""
        return cast(torch.dtype, self.manual_cast_dtype or self.own_precision)

    def get_dtype_inference(self) -> torch.dtype:
        """Return what a newer host brings x to."""
        return self.diffusion_model.dtype

    def extra_conds(self, **given: Any) -> dict[str, StageCond]:
        """Return what one conditioning gives to a run, checked.

        Raises:
            ValueError: with what to connect or remove.
        """
        network, noise, device = self.diffusion_model, given["noise"], given["device"]
        check_schedule(self.model_sampling)
        if given.get("control") is not None:
            raise ValueError(f"{network.label} takes no ControlNet; remove it before the sampler")
        text, semantic = given.get("cross_attn"), None
        check_channels(noise, network.config.c_in, f"this sampler runs {network.label}")
        check_text(text, network.text_width, network.loader)
        sides = (noise.shape[2], noise.shape[3])
        if not given.get("set_area_to_bounds"):  # those of a mask the host cuts to the latent
            check_area(given.get("area"), sides)
        if isinstance(network, StageB):
            semantic = given.get(SEMANTIC)
            check_semantic(semantic, noise, given.get("prompt_type"))
            if semantic is None:
                cells = [max(1, side * 3 // 32) for side in sides]
                semantic = torch.zeros(1, network.config.effnet_embd, *cells)
            semantic = semantic.to(device, torch.float32)
        text = cast(Tensor, text).to(device, self.precision)
        return {"constants": StageCond(text, semantic, sides)}

    def apply_model(
        self, x: Tensor, t: Tensor, *given: Any, constants: Sequence[StageCond], **others: Any
    ) -> Tensor:
        """Return the clean latent in `x`, by weights that have their patches by now."""
        prepared = self.constants(constants, x.device)
        clean: Tensor = super().apply_model(x, t, *given, constants=prepared, **others)
        return clean

    def resize_cond_for_context_window(
        self, name: str, cond: StageCond, window: Any, x: Tensor, *_: Any, **others: Any
    ) -> StageCond | None:
        """Return what one of a newer host's context windows takes of a conditioning."""
        return cond.within(window, len(x)) if name == "constants" else None

    def constants(self, parts: Sequence[StageCond], device: torch.device) -> Constants:
        """Return the constants of one call of the network, prepared once per run.

        With hooks, and in training, weights may change at any step: then nothing made of them is kept.
        """
        key = tuple((part.source, part.batch, part.area) for part in parts)
        if key in self.run:
            return self.run[key]
        hooks = getattr(self.current_patcher, "current_hooks", None)
        lasts = not (hooks or torch.is_grad_enabled())
        if lasts:
            keep_packed(self.diffusion_model, self.precision)
        else:
            drop_packed(self.diffusion_model)
        first = parts[0]
        text = torch.cat([part.repeated(part.cond) for part in parts]).to(device)
        if first.semantic is None:
            constants = Constants(self.diffusion_model.prepare(text))
        else:
            semantic = torch.cat([part.repeated(part.semantic) for part in parts]).to(device)
            prepared, frame = self.diffusion_model.prepare(text, semantic, first.sides), NO_FRAME
            if first.area is not None:
                grid, frame = on_grid(first.area, self.diffusion_model.config.granularity)
                prepared = cut(prepared, first.sides, Window(*grid))
            constants = Constants(prepared, frame)
        if lasts:
            self.run[key] = constants
        return constants

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> float:
        """Return the bytes that a call needs beside the weights, about."""
        cells = input_shape[0] * input_shape[2] * input_shape[3]
        return float(cells * self.diffusion_model.width * COPIES * self.precision.itemsize)
