"""Stage A: VQ latent -> IMAGE."""

from typing import Any

from comfy_api.latest import io

from . import host


class StageADecode(io.ComfyNode):
    """The VQGAN's decoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenStageADecode",
            display_name="Würstchen Stage A Decode",
            category="Würstchen",
            description="Makes pixels of a Stage B latent.",
            inputs=[
                io.Vae.Input("vae", tooltip="Stage A, from Load Decoder."),
                io.Latent.Input("latent", tooltip="A Stage B latent, from Stage B Decode."),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=8192,
                    step=64,
                    tooltip="Side of a tile in pixels, at least 256: less memory for large pictures. "
                    "0 decodes the whole picture at once.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture.")],
        )

    @classmethod
    def execute(cls, vae: Any, latent: dict[str, Any], tile_size: int) -> io.NodeOutput:
        return io.NodeOutput(host.decode(vae, latent, tile_size))
