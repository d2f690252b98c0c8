"""Pictures as input: IMAGE -> Stage C latent, and which of its pixels are kept."""

from typing import Any

from comfy_api.latest import io

from . import host


class StageCEncode(io.ComfyNode):
    """The compressor: from a picture to a semantic latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenStageCEncode",
            display_name="Würstchen Stage C Encode",
            category="Würstchen",
            description="Makes a Stage C latent of a picture of any size: to paint over it, or to "
            "paint its details anew.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or several, from 128 pixels a side."),
                io.Vae.Input("vae", tooltip="The compressor, from Load Compressor."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture is painted anew, black where it stays; of "
                    "the picture's size. Without one, all of it is painted over.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="A Stage C latent, for Stage C Sampler or Stage B Decode.",
                )
            ],
        )

    @classmethod
    def execute(cls, image: Any, vae: Any, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(host.encode_semantic(vae, image, mask))


class KeepPixels(io.ComfyNode):
    """The given pixels where nothing was to be painted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenKeepPixels",
            display_name="Würstchen Keep Pixels",
            category="Würstchen",
            description="Puts the original's own pixels back outside the mask, since every pixel "
            "that goes through the stages changes a little.",
            inputs=[
                io.Image.Input("painted", tooltip="The new picture, from Stage A Decode."),
                io.Image.Input("original", tooltip="The picture that was painted over."),
                io.Mask.Input("mask", tooltip="The mask that Stage C Encode had."),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=512,
                    tooltip="Width in pixels of the soft edge inside the mask.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The original, new where the mask is white."
                )
            ],
        )

    @classmethod
    def execute(cls, painted: Any, original: Any, mask: Any, feather: int) -> io.NodeOutput:
        return io.NodeOutput(host.keep_pixels(painted, original, mask, feather))
