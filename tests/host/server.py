"""A real ComfyUI, started with only this pack and driven over HTTP and websocket."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from safetensors.torch import load

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
PACK = "Würstchen, der Knoten"  # hosts may lie in folders with spaces and other letters
PROBE = Path(__file__).with_name("probe.py")
START_SECONDS, RUN_SECONDS = 900, 600


@dataclass(kw_only=True)
class Outcome:
    """What a run of a graph told: nodes that ran and were cached, steps, previews, the error.

    `images` are the files of saved pictures, `latents` the tensors of saved latents, in the order
    of their nodes in the graph.
    """

    ran: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    previews: int = 0
    images: list[bytes] = field(default_factory=list)
    latents: list[Any] = field(default_factory=list)

    @property
    def message(self) -> str:
        """What the node's dialog says."""
        return str(self.error.get("exception_message", ""))


class Host:
    """The server process and the means to talk to it."""

    def __init__(self, checkout: Path, base: Path, *options: str, pack: str = PACK) -> None:
        self.base, self.log = base, base / "host.log"
        for name in FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / pack).symlink_to(ROOT, target_is_directory=True)
        (base / "custom_nodes" / PROBE.name).symlink_to(PROBE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [
            os.environ.get("COMFYUI_PYTHON", sys.executable),
            "main.py",
            "--cpu",
            "--port",
            self.address.rpartition(":")[2],
            "--base-directory",
            str(base),
            "--database-url",
            f"sqlite:///{base / 'user' / 'comfyui.db'}",
            "--disable-auto-launch",
            "--disable-api-nodes",
            *options,
        ]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log)

    def wait(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("system_stats")
                return
            except OSError:
                time.sleep(1)
        raise RuntimeError(f"the host did not start:\n{self.told()}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def told(self) -> str:
        """Return the end of the server's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-6000:]

    def get(self, path: str) -> Any:
        """Return what the server answers, as JSON or bytes."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=60) as answer:
            body = answer.read()
            kind = answer.headers.get_content_type()
        return json.loads(body) if kind == "application/json" else body

    def post(self, path: str, entries: dict[str, Any]) -> Any:
        """Return the JSON that the server answers to `entries`, be it an error's."""
        request = urllib.request.Request(
            f"http://{self.address}/{path}",
            json.dumps(entries).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, graph: dict[str, Any], *, interrupt_at: int | None = None) -> Outcome:
        """Return the outcome of a graph in API form, interrupted when a node is at that step."""
        return asyncio.run(asyncio.wait_for(self._run(graph, interrupt_at), RUN_SECONDS))

    async def _run(self, graph: dict[str, Any], interrupt_at: int | None) -> Outcome:
        import aiohttp

        outcome, client = Outcome(), f"test-{time.monotonic_ns()}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{self.address}/ws?clientId={client}") as wire,
        ):
            await wire.receive()
            queued = self.post("prompt", {"prompt": graph, "client_id": client})
            if "prompt_id" not in queued:
                return Outcome(error={**queued, "exception_message": json.dumps(queued)})
            async for message in wire:
                if message.type != aiohttp.WSMsgType.TEXT:
                    outcome.previews += 1
                    continue
                event = json.loads(message.data)
                if event["type"] == "progress" and event["data"]["value"] == interrupt_at:
                    await session.post(f"http://{self.address}/interrupt")
                if not self._noted(outcome, event["type"], event["data"]):
                    break
        if not outcome.error:
            self._fetch(outcome, graph, queued["prompt_id"])
        return outcome

    def _noted(self, outcome: Outcome, kind: str, data: dict[str, Any]) -> bool:
        """Add an event to the outcome; False at the end of the run."""
        if kind == "executing" and data.get("node"):
            outcome.ran.append(data["node"])
        elif kind == "execution_cached":
            outcome.cached.extend(data["nodes"])
        elif kind == "progress":
            outcome.steps[data["node"]] = data["value"]
        elif kind in ("execution_error", "execution_interrupted"):
            outcome.error = data
        return kind not in ("execution_success", "execution_error", "execution_interrupted")

    def _fetch(self, outcome: Outcome, graph: dict[str, Any], prompt_id: str) -> None:
        """Add the saved files of a run, once the history has them."""
        for _ in range(100):
            history = self.get(f"history/{prompt_id}")
            if prompt_id in history:
                break
            time.sleep(0.1)
        outputs = history[prompt_id]["outputs"]
        for told in (outputs.get(name, {}) for name in graph):
            outcome.images += [self._file(entry) for entry in told.get("images", [])]
            outcome.latents += [
                load(self._file(entry))["latent_tensor"] for entry in told.get("latents", [])
            ]

    def _file(self, entry: dict[str, str]) -> bytes:
        body: bytes = self.get(f"view?{urllib.parse.urlencode(entry)}")
        return body


def pixels(image: bytes) -> Any:
    """Return the levels (H, W, 3) of a picture file."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(BytesIO(image)).convert("RGB")).astype(int)
