"""The graph nodes of Würstchen: one flat list, a node per stage and a loader per model.

Every wire is one of the host's own types, so that core nodes and other packs join at any stage.
"""

from comfy_api.latest import ComfyExtension, io

from . import image, interpolation, load, lora, prompts, stage_a, stage_b, stage_c, text

NODES: list[type[io.ComfyNode]] = [
    load.LoadPrior,
    load.LoadDecoder,
    load.LoadStageA,
    text.TextEncode,
    stage_c.EmptyLatent,
    stage_c.StageCSampler,
    stage_b.StageBDecode,
    stage_a.StageADecode,
    stage_c.Times,
    stage_b.StageBConditioning,
    lora.LoadLora,
    load.LoadCompressor,
    image.StageCEncode,
    image.KeepPixels,
    prompts.LoadPrompts,
    prompts.TextEncodeLines,
    interpolation.InterpolatePrompts,
    interpolation.InterpolateLatents,
]


class Wuerstchen(ComfyExtension):
    """What the host asks for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes in the order of the menu."""
        return NODES
