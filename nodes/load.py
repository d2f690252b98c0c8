"""Loaders: files -> MODEL, CLIP, VAE."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..wuerstchen.checkpoints.sources import DECODER_FOLDER, MINI, PRIOR_FOLDER
from . import host
from .files import FromFiles, choices, path_of

MINI_PRIOR, MINI_DECODER = MINI / PRIOR_FOLDER, MINI / DECODER_FOLDER
MINI_TOWER = Path("text_encoder") / "model.safetensors"
WEIGHT_DTYPE = (
    "Precision in which the weights are stored. default: what ComfyUI chooses for this device; "
    "fp32 is exact and takes twice the memory of fp16 or bf16."
)
DIFFUSION_DTYPE = WEIGHT_DTYPE + (
    " fp8_e4m3fn stores the diffusion network alone in half the memory of fp16, which changes "
    "pictures a little."
)


class LoadPrior(FromFiles):
    """Stage C and its text tower."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenLoadPrior",
            display_name="Würstchen Load Prior",
            category="Würstchen/load",
            description="Loads Stage C, which paints a small semantic latent from a prompt, and "
            "the text encoder that reads the prompt for it.",
            inputs=[
                io.Combo.Input(
                    "prior",
                    options=choices("prior"),
                    tooltip="File of Stage C, from models/diffusion_models or models/wuerstchen.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=choices("text_encoder"),
                    tooltip="File of the prior's text encoder (published: OpenCLIP bigG), from "
                    "models/text_encoders or models/wuerstchen.",
                ),
                io.Combo.Input(
                    "weight_dtype", options=host.DIFFUSION_DTYPES, tooltip=DIFFUSION_DTYPE
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Stage C."),
                io.Clip.Output(display_name="clip", tooltip="Reads prompts for Stage C."),
            ],
        )

    @classmethod
    def execute(cls, prior: str, text_encoder: str, weight_dtype: str) -> io.NodeOutput:
        network = path_of(prior, "prior", MINI_PRIOR)
        tower = path_of(text_encoder, "text_encoder", MINI_PRIOR / MINI_TOWER)
        embeddings = folder_paths.get_folder_paths("embeddings")
        return io.NodeOutput(
            host.diffusion_model(network, "stage_c", weight_dtype),
            host.text_tower(tower, "g", weight_dtype, embeddings),
        )


class LoadDecoder(FromFiles):
    """Stage B, its text tower, and Stage A."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenLoadDecoder",
            display_name="Würstchen Load Decoder",
            category="Würstchen/load",
            description="Loads Stage B, which paints the details into a semantic latent, its text "
            "encoder, and Stage A, which makes pixels of the result.",
            inputs=[
                io.Combo.Input(
                    "stage_b",
                    options=choices("stage_b"),
                    tooltip="File of Stage B, from models/diffusion_models or models/wuerstchen.",
                ),
                io.Combo.Input(
                    "stage_a",
                    options=choices("stage_a"),
                    tooltip="File of Stage A (the VQGAN), from models/vae or models/wuerstchen.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=choices("text_encoder"),
                    tooltip="File of the decoder's text encoder (published: OpenCLIP H), from "
                    "models/text_encoders or models/wuerstchen.",
                ),
                io.Combo.Input(
                    "weight_dtype", options=host.DIFFUSION_DTYPES, tooltip=DIFFUSION_DTYPE
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Stage B."),
                io.Clip.Output(display_name="clip", tooltip="Reads prompts for Stage B."),
                io.Vae.Output(display_name="vae", tooltip="Stage A."),
            ],
        )

    @classmethod
    def execute(
        cls, stage_b: str, stage_a: str, text_encoder: str, weight_dtype: str
    ) -> io.NodeOutput:
        network = path_of(stage_b, "stage_b", MINI_DECODER)
        tower = path_of(text_encoder, "text_encoder", MINI_DECODER / MINI_TOWER)
        embeddings = folder_paths.get_folder_paths("embeddings")
        return io.NodeOutput(
            host.diffusion_model(network, "stage_b", weight_dtype),
            host.text_tower(tower, "h", weight_dtype, embeddings),
            host.autoencoder(path_of(stage_a, "stage_a", MINI_DECODER), weight_dtype),
        )


class LoadStageA(FromFiles):
    """Stage A alone, to swap it without running Stage B again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenLoadStageA",
            display_name="Würstchen Load Stage A",
            category="Würstchen/load",
            description="Loads another Stage A than the decoder's own. Swapping it here runs only "
            "Stage A again.",
            inputs=[
                io.Combo.Input(
                    "stage_a",
                    options=choices("stage_a"),
                    tooltip="File of Stage A (the VQGAN), from models/vae or models/wuerstchen.",
                ),
                io.Combo.Input("weight_dtype", options=host.WEIGHT_DTYPES, tooltip=WEIGHT_DTYPE),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="Stage A.")],
        )

    @classmethod
    def execute(cls, stage_a: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(
            host.autoencoder(path_of(stage_a, "stage_a", MINI_DECODER), weight_dtype)
        )


class LoadCompressor(FromFiles):
    """The compressor, for pictures as input."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenLoadCompressor",
            display_name="Würstchen Load Compressor",
            category="Würstchen/load",
            description="Loads the compressor, which makes a Stage C latent of a picture.",
            inputs=[
                io.Combo.Input(
                    "compressor",
                    options=choices("compressor"),
                    tooltip="File of the compressor (published: warp-ai/EfficientNetEncoder), from "
                    "models/vae or models/wuerstchen.",
                ),
                io.Combo.Input("weight_dtype", options=host.WEIGHT_DTYPES, tooltip=WEIGHT_DTYPE),
            ],
            outputs=[
                io.Vae.Output(display_name="vae", tooltip="The compressor, for Stage C Encode.")
            ],
        )

    @classmethod
    def execute(cls, compressor: str, weight_dtype: str) -> io.NodeOutput:
        path = path_of(compressor, "compressor", MINI_DECODER)
        return io.NodeOutput(host.semantic_encoder(path, weight_dtype))
