"""A candidate's engine without its policy, for evaluations and judges: on loopback, behind a key of this run alone.

It is a `registry.protocols.GuardedEndpoint` in shape only. Nothing is ever released through it: an alias is served by
`policies.serve`, under its certificate.
"""

from __future__ import annotations

import hmac
import http.client
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from policies.serving.assembly import ENGINE_MODEL, READY_SECONDS
from policies.serving.scratch import claim_scratch, socket_folder
from registry.errors import Tampered
from registry.protocols import Progress, silent
from registry.records import Candidate, sha256
from registry.workspace import Workspace

PATHS = frozenset({"/v1/models", "/v1/completions", "/v1/chat/completions"})
REQUEST_SECONDS = 600.0
LARGEST_BODY = 64 << 20
ADAPTER_MODEL = "adapter"
LOGPROBS = 20
"""What log-likelihood measurements may ask of vLLM; a served engine gives none."""


class BareEngine:
    """A running engine on a candidate's verified weights. Use `start`, then `close`. `model` is what to ask for."""

    permit = ""
    headers: Mapping[str, str] = {}

    def __init__(self, uds: Path, stack: ExitStack, *, model: str = "") -> None:
        self._stack, self.model = stack, model
        self.api_key = secrets.token_urlsafe(24)
        self._server = _Server(uds, self.api_key)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, ws: Workspace, candidate: Candidate, *, kind: str = "", progress: Progress = silent) -> BareEngine:
        """Start the candidate's engine (or the one of `kind`) on a private copy of its weights and wait for it.

        Template, system prompt and generation defaults are the candidate's.

        Raises:
            Tampered: a file of the weights or adapter is not what its manifest says, or the system prompt not what it
                names.
            Refused: the adapter is more than plain LoRA, or not one of these weights.
            EngineFailure: the engine did not start.
        """
        from policies import engines

        with ExitStack() as stack:
            scratch = stack.enter_context(claim_scratch(ws.work("serve")))
            weights = ws.artifacts.checkout(candidate.weights, scratch / "weights")
            uds = stack.enter_context(socket_folder()) / "engine.sock"
            chosen = kind or candidate.engine
            options: dict[str, object] = {"generation_config": _generation(candidate)}
            if chosen == "vllm":
                options["max_logprobs"] = LOGPROBS
            if candidate.quantisation != "none":
                options["quantisation"] = candidate.quantisation
            model = ENGINE_MODEL
            if candidate.adapter != "none":
                model = ADAPTER_MODEL
                options["adapters"] = {model: ws.artifacts.checkout(candidate.adapter, scratch / "adapter")}
            prompt = str(candidate.generation.get("system_prompt", ""))
            if prompt:
                if sha256(prompt.encode()) != candidate.system_prompt:
                    raise Tampered("the candidate's system prompt is not the one it names", hint="create it again")
                options["system_prompt_file"] = scratch / "system_prompt.txt"
                (scratch / "system_prompt.txt").write_text(prompt, encoding="utf-8")
            log = ws.work("logs") / f"engine-bare-{candidate.id[7:19]}.log"
            handle = engines.start(chosen, weights, uds, served_name=ENGINE_MODEL, log=log, options=options)
            stack.callback(handle.stop)
            handle.wait_ready(READY_SECONDS, progress)
            return cls(uds, stack.pop_all(), model=model)

    def close(self) -> None:
        """Stop the relay, then the engine, and remove its copy of the weights."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._stack.close()


def _generation(candidate: Candidate) -> dict[str, object]:
    """Return the candidate's generation defaults as an engine reads them: greedy is a temperature of zero."""
    found = {name: value for name, value in candidate.generation.items() if name != "system_prompt"}
    return {**found, "temperature": 0.0} if found.get("do_sample") is False else found


class _Connection(http.client.HTTPConnection):
    """A connection to the engine's socket."""

    def __init__(self, uds: Path) -> None:
        super().__init__("engine", timeout=REQUEST_SECONDS)
        self._uds = str(uds)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._uds)


class _Server(ThreadingHTTPServer):
    """Passes requests on to the engine at `uds`."""

    def __init__(self, uds: Path, key: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.uds, self.expected = uds, f"Bearer {key}".encode()


class _Relay(BaseHTTPRequestHandler):
    """Passes one request with the right key on."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if not 0 <= size <= LARGEST_BODY:
            self.close_connection = True
            self._answer(413, b'{"error": {"message": "the request is too large"}}')
            return
        self._pass_on(self.rfile.read(size))

    def _pass_on(self, body: bytes) -> None:
        if not hmac.compare_digest((self.headers.get("Authorization") or "").encode(), self.server.expected):
            self._answer(401, b'{"error": {"message": "not the key of this run"}}')
        elif self.path not in PATHS:
            self._answer(404, b'{"error": {"message": "no such route"}}')
        else:
            self._ask_engine(body)

    def _ask_engine(self, body: bytes) -> None:
        connection = _Connection(self.server.uds)
        try:
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            self._answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            message = f'{{"error": {{"message": "the engine does not answer: {type(error).__name__}"}}}}'
            self._answer(502, message.encode())
        finally:
            connection.close()

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the parent class would write to standard error."""
