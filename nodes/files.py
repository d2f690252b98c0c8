"""Files that widgets name: in the host's model folders, in `wuerstchen` beside them, or in its input."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..wuerstchen.checkpoints.sources import MINI

BUNDLED = "mini (bundled)"
OWN_FOLDER = "wuerstchen"
INPUT = "input"
FOLDERS = {  # of the host, by the widget that names a file in it
    "prior": "diffusion_models",
    "stage_b": "diffusion_models",
    "text_encoder": "text_encoders",
    "stage_a": "vae",
    "compressor": "vae",
    "lora": "loras",
    "file": INPUT,
}

folder_paths.add_model_folder_path(OWN_FOLDER, str(Path(folder_paths.models_dir) / OWN_FOLDER))
folder_paths.folder_names_and_paths[OWN_FOLDER][1].update(folder_paths.supported_pt_extensions)


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
    """Return the path of a file of a widget's folder or, if that is none for input, of `wuerstchen`.

    Raises:
        FileNotFoundError: if it is no longer there.
    """
    folder = FOLDERS[widget]
    if folder == INPUT:
        return input_file(choice)
    found = folder_paths.get_full_path(folder, choice)
    found = found or folder_paths.get_full_path(OWN_FOLDER, choice)
    if found is None:
        raise FileNotFoundError(
            f"{choice} is neither in models/{folder} nor in models/{OWN_FOLDER}; put it into one of "
            "them, or choose another file"
        )
    return str(found)


def input_file(choice: str) -> str:
    """Return the path of a file of the host's input folder.

    Raises:
        FileNotFoundError: if it is no longer there.
    """
    found: str = folder_paths.get_annotated_filepath(choice)
    if not Path(found).is_file():
        raise FileNotFoundError(
            f"{choice} is not in ComfyUI's input folder; put it there, or choose another file"
        )
    return found
