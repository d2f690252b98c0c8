"""Loaders: files -> MODEL, CLIP, VAE. Files lie in the host's own folders, or in `wuerstchen`."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..wuerstchen.sources import DECODER_FOLDER, MINI, PRIOR_FOLDER
from . import host

BUNDLED = "mini (bundled)"
OWN_FOLDER = "wuerstchen"
MINI_PRIOR, MINI_DECODER = MINI / PRIOR_FOLDER, MINI / DECODER_FOLDER
FOLDERS = {  # of the host, by the widget that names a file in it
    "prior": "diffusion_models",
    "stage_b": "diffusion_models",
    "text_encoder": "text_encoders",
    "stage_a": "vae",
    "compressor": "vae",
    "lora": "loras",
}
MINI_TOWER = Path("text_encoder") / "model.safetensors"
WEIGHT_DTYPE = (
    "Precision in which the weights are stored. default: what ComfyUI chooses for this device; "
    "fp32 is exact and takes twice the memory of fp16 or bf16."
)
DIFFUSION_DTYPE = WEIGHT_DTYPE + (
    " fp8_e4m3fn stores the diffusion network alone in half the memory of fp16, which changes "
    "pictures a little."
)

folder_paths.add_model_folder_path(OWN_FOLDER, str(Path(folder_paths.models_dir) / OWN_FOLDER))
folder_paths.folder_names_and_paths[OWN_FOLDER][1].update(folder_paths.supported_pt_extensions)


def choices(widget: str) -> list[str]:
    """Return the bundled model, then the files that a widget may name."""
    return [BUNDLED, *files(widget)]


def files(widget: str) -> list[str]:
    """Return the names of the files of a widget's folder and of `wuerstchen`."""
    places = (FOLDERS[widget], OWN_FOLDER)
    return sorted({name for place in places for name in folder_paths.get_filename_list(place)})


def path_of(choice: str, widget: str, bundled: Path) -> str:
    """Return the path of a choice.

    Raises:
        FileNotFoundError: if the file is no longer there.
    """
    return str(bundled) if choice == BUNDLED else file_of(choice, widget)


def file_of(choice: str, widget: str) -> str:
    """Return the path of a file of a widget's folder or of `wuerstchen`.

    Raises:
        FileNotFoundError: if it is no longer there.
    """
    folder = FOLDERS[widget]
    found = folder_paths.get_full_path(folder, choice)
    found = found or folder_paths.get_full_path(OWN_FOLDER, choice)
    if found is None:
        raise FileNotFoundError(
            f"{choice} is neither in models/{folder} nor in models/{OWN_FOLDER}; put it into one of "
            "them, or choose another file"
        )
    return str(found)


class FromFiles(io.ComfyNode):
    """A node that runs again once a file that it reads has changed."""

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> list[float]:
        """Return when the chosen files were written, 0 for those that are not there.

        A link tells no name yet.
        """
        chosen = {name: one for name, one in given.items() if name in FOLDERS and one is not None}
        return [written(choice, widget) for widget, choice in chosen.items()]


def written(choice: str, widget: str) -> float:
    """Return when a file was written, 0 if it is not there."""
    try:
        return Path(path_of(choice, widget, MINI)).stat().st_mtime
    except OSError:
        return 0.0


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
