"""Stage B: semantic latent and CONDITIONING -> VQ latent."""

from typing import Any

from comfy_api.latest import io

from . import host


class StageBDecode(io.ComfyNode):
    """The decoder: from a semantic latent to a VQ latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenStageBDecode",
            display_name="Würstchen Stage B Decode",
            category="Würstchen",
            description="Paints the details into a Stage C latent. The composition stays; another "
            "seed gives other details.",
            inputs=[
                io.Model.Input("model", tooltip="Stage B, from Load Decoder."),
                io.Latent.Input(
                    "latent", tooltip="A Stage C latent, from Stage C Sampler or Stage C Encode."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt, encoded with the clip of Load Decoder."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=host.LARGEST_SEED,
                    control_after_generate=True,
                    tooltip="Another seed gives other details of the same composition.",
                ),
                io.Int.Input("steps", default=12, min=1, max=1000, tooltip="Number of even steps."),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely prompt and Stage C latent are followed; 1 or less turns "
                    "guidance off, which is usual.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to avoid, encoded with the clip of Load Decoder. Needed only if "
                    "guidance is above 1.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=8192,
                    step=64,
                    optional=True,
                    tooltip="Side of a window in pixels, at least 256: less memory for large "
                    "pictures. Windows overlap and are blended in every step. 0 paints the whole "
                    "picture at once.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="A Stage B latent, for Stage A Decode."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        positive: Any,
        seed: int,
        steps: int,
        guidance: float,
        negative: Any = None,
        tile_size: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            host.sample_vq(model, latent, positive, negative, seed, steps, guidance, tile_size)
        )


class StageBConditioning(io.ComfyNode):
    """A Stage C latent in a conditioning, for core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenStageBConditioning",
            display_name="Würstchen Stage B Conditioning",
            category="Würstchen",
            description="Puts a Stage C latent into a conditioning, so that ComfyUI's own "
            "samplers can run Stage B.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt, encoded with the clip of Load Decoder."
                ),
                io.Latent.Input("latent", tooltip="A Stage C latent, from Stage C Sampler."),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="Positive conditioning of Stage B."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning: Any, latent: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(host.with_semantic(conditioning, latent))
