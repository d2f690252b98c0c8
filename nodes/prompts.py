"""Many prompts: a file of them, or one per line."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..wuerstchen.prompt_files import read_jobs
from ..wuerstchen.settings import Settings
from . import host
from .files import FromFiles, file_of

KINDS = {".txt", ".csv", ".jsonl"}


def prompt_files() -> list[str]:
    """Return the names of the files of prompts in the host's input folder."""
    folder = Path(folder_paths.get_input_directory())
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in KINDS)


class LoadPrompts(FromFiles):
    """Prompts of a file, one run for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenLoadPrompts",
            display_name="Würstchen Load Prompts",
            category="Würstchen/load",
            description="Reads a file of prompts. What follows runs once for each picture that "
            "the file asks for.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=prompt_files(),
                    tooltip="A .txt, .csv or .jsonl file in ComfyUI's input folder.",
                )
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", is_output_list=True, tooltip="What to paint."
                ),
                io.String.Output(
                    display_name="negative", is_output_list=True, tooltip="What to avoid."
                ),
                io.Int.Output(
                    display_name="seed", is_output_list=True, tooltip="For Stage C and Stage B."
                ),
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        rows = read_jobs(Path(file_of(file, "file")), Settings())
        jobs = [job for row in rows for job in row]
        negatives, seeds = ([getattr(j.settings, n) for j in jobs] for n in ("negative", "seed"))
        return io.NodeOutput([job.prompt for job in jobs], negatives, seeds)


class TextEncodeLines(io.ComfyNode):
    """A batch of prompts by one of the two text towers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenTextEncodeLines",
            display_name="Würstchen Text Encode Lines",
            category="Würstchen",
            description="Turns every line into a prompt of its own: a conditioning with a row for "
            "each picture of a batch.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="From Load Prior for Stage C, from Load Decoder for Stage B.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="One prompt per line; empty lines are skipped.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The prompts, for the stage of the clip."
                ),
                io.Int.Output(
                    display_name="count", tooltip="Number of prompts, for batch of Empty Latent."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str) -> io.NodeOutput:
        return io.NodeOutput(*host.encode_lines(clip, text))
