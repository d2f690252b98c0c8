"""LoRA: MODEL and CLIP of Stage C -> the same with a LoRA."""

from typing import Any

from comfy_api.latest import io

from . import host
from .files import FromFiles, file_of, files


class LoadLora(FromFiles):
    """A LoRA on the prior and its text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
        return io.Schema(
            node_id="WuerstchenLoadLora",
            display_name="Würstchen Load LoRA",
            category="Würstchen/load",
            description="Adds a LoRA to Stage C and to its text encoder. Several can follow one "
            "another.",
            inputs=[
                io.Model.Input("model", tooltip="Stage C, from Load Prior or another Load LoRA."),
                io.Clip.Input(
                    "clip", tooltip="Its text encoder, from Load Prior or another Load LoRA."
                ),
                io.Combo.Input(
                    "lora",
                    options=files("lora"),
                    tooltip="File of the LoRA, from models/loras or models/wuerstchen.",
                ),
                io.Float.Input(
                    "strength_model",
                    **strength,
                    tooltip="How much of it Stage C gets; 1 is as trained, 0 is none, below 0 "
                    "leads away from it.",
                ),
                io.Float.Input(
                    "strength_clip",
                    **strength,
                    tooltip="How much of it the text encoder gets, likewise.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Stage C with the LoRA."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder with the LoRA."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, lora: str, strength_model: float, strength_clip: float
    ) -> io.NodeOutput:
        path = file_of(lora, "lora")
        return io.NodeOutput(*host.with_lora(model, clip, path, strength_model, strength_clip))
