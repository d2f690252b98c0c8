"""What is made once and read back from a folder afterwards, and a checksum that tells weights apart."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..writing import appearing


def kept_tensor(file: Path, make: Callable[[], Tensor]) -> Tensor:
    """Return the tensor of a .npy file, made now unless it was before."""
    if not file.exists():
        made = make().numpy()
        with appearing(file) as part, part.open("wb") as opened:
            np.save(opened, made)
    return torch.from_numpy(np.load(file))


def kept_json(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the entries of a JSON file, made now unless they were before."""
    if not file.exists():
        made = json.dumps(make())
        with appearing(file) as part:
            part.write_text(made + "\n", encoding="utf-8")
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def checksum(*networks: nn.Module) -> str:
    """Return the SHA-256 of all names and numbers of networks, on whatever device they are."""
    digest = hashlib.sha256()
    for network in networks:
        for name, numbers in network.state_dict().items():
            digest.update(name.encode())
            digest.update(numbers.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
