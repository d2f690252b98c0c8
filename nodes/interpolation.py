"""Paths: from one prompt or Stage C latent to another, a picture for each step of the way."""

from typing import Any

from comfy_api.latest import io

from . import host

FRAMES = "Number of pictures along the path, both ends included."


class InterpolatePrompts(io.ComfyNode):
    """A path between prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenInterpolatePrompts",
            display_name="Würstchen Interpolate Prompts",
            category="Würstchen",
            description="Leads from one prompt to another: a conditioning with a row for each "
            "picture of a batch.",
            inputs=[
                io.Conditioning.Input("conditioning_a", tooltip="The prompt of the first picture."),
                io.Conditioning.Input(
                    "conditioning_b",
                    tooltip="The prompt of the last picture, encoded with the same clip.",
                ),
                io.Int.Input("frames", default=8, min=2, max=4096, tooltip=FRAMES),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="For a latent with the same batch size."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning_a: Any, conditioning_b: Any, frames: int) -> io.NodeOutput:
        return io.NodeOutput(host.prompts_between(conditioning_a, conditioning_b, frames))


class InterpolateLatents(io.ComfyNode):
    """A path between compositions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenInterpolateLatents",
            display_name="Würstchen Interpolate Latents",
            category="Würstchen",
            description="Leads from one Stage C latent to another: a batch that Stage B paints "
            "with one noise.",
            inputs=[
                io.Latent.Input("latent_a", tooltip="The first Stage C latent."),
                io.Latent.Input("latent_b", tooltip="The last Stage C latent, of the same size."),
                io.Int.Input("frames", default=8, min=2, max=4096, tooltip=FRAMES),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="A batch of Stage C latents, for Stage B Decode."
                )
            ],
        )

    @classmethod
    def execute(
        cls, latent_a: dict[str, Any], latent_b: dict[str, Any], frames: int
    ) -> io.NodeOutput:
        return io.NodeOutput(host.latents_between(latent_a, latent_b, frames))
