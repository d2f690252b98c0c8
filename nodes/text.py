"""Text: a prompt -> CONDITIONING."""

from typing import Any

from comfy_api.latest import io

from . import host


class TextEncode(io.ComfyNode):
    """A prompt by one of the two text towers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenTextEncode",
            display_name="Würstchen Text Encode",
            category="Würstchen",
            description="Turns a prompt into a conditioning. Stage C and Stage B read the prompt "
            "with text encoders of their own: encode it once with the clip of each loader.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="From Load Prior for Stage C, from Load Decoder for Stage B.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to paint, or, for a negative, what not to. (word:1.3) weighs a "
                    "word more.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The prompt, for the stage of the clip."
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str) -> io.NodeOutput:
        return io.NodeOutput(host.encode(clip, text))
