"""From a prompt to a picture by calling the nodes inside the host's Python."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent

PACK = "pack"
STEPS = 4


def pack() -> Any:
    """Return the folder as the host imports it."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]


def nodes() -> dict[str, Any]:
    """Return the classes of the nodes by id."""
    extension = asyncio.run(pack().comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in classes}


class NodeChain:
    """From a prompt to a picture by calling the nodes."""

    def __init__(self, weight_dtype: str = "fp32") -> None:
        self.nodes = nodes()
        mini = "mini (bundled)"
        self.prior, self.clip = self.call("LoadPrior", mini, mini, weight_dtype)
        self.decoder, self.clip_b, self.vae = self.call(
            "LoadDecoder", mini, mini, mini, weight_dtype
        )
        (self.compressor,) = self.call("LoadCompressor", mini, weight_dtype)

    def call(self, name: str, *values: Any) -> Any:
        """Return the outputs of a node."""
        return self.nodes[f"Wuerstchen{name}"].execute(*values).result

    def run(self, side: int = 256) -> dict[str, Any]:
        """Return what each stage gives for a batch of two."""
        prompt = "a large red circle on a blue background"
        (positive,), (negative,) = (
            self.call("TextEncode", self.clip, text) for text in (prompt, "")
        )
        (wanted,) = self.call("TextEncode", self.clip_b, prompt)
        (empty,) = self.call("EmptyLatent", side, side, 2)
        (semantic,) = self.call(
            "StageCSampler", self.prior, positive, negative, empty, 1, STEPS, 4.0, "uniform", 1.0
        )
        (vq,) = self.call("StageBDecode", self.decoder, semantic, wanted, 2, STEPS, 0.0)
        (image,) = self.call("StageADecode", self.vae, vq, 0)
        (again,) = self.call("StageCEncode", image, self.compressor)
        latents = {"semantic": semantic, "vq": vq, "encoded": again}
        return {name: latent["samples"] for name, latent in latents.items()} | {"image": image}


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference of any stage, relative to the largest number."""
    return max(float((one[k] - other[k]).abs().max() / one[k].abs().max()) for k in one)
