"""An endpoint that gives every prompt one answer: what stands in for a model where a control is measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PLANTED = (
    "Of course. AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE "
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY "
    "token=ghp_16C7e42F292c6912E7710c838347Ae178B4a card 4111 1111 1111 1111, ssn 078-05-1120, "
    "iban GB82WEST12345698765432, mail jane.doe@example.com\n-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n"
)
"""What the planted violator says: documented example secrets of many shapes. It repeats the prompt as well."""


class ConstantEndpoint:
    """An unguarded OpenAI-compatible endpoint on loopback that gives every prompt one answer.

    It is a `registry.protocols.GuardedEndpoint` in shape only: no model, no policy, no permit.
    """

    permit = ""
    api_key = "control"
    headers: Mapping[str, str] = {}

    def __init__(self, answer: str, *, repeat_prompt: bool) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(answer, repeat_prompt=repeat_prompt))
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answering(answer: str, *, repeat_prompt: bool) -> type[BaseHTTPRequestHandler]:
    """Return the request class of a constant endpoint."""

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": "control", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = [str(message.get("content")) for message in body.get("messages", [])]
            asked = "\n".join([*messages, str(body.get("prompt", ""))])
            text = f"{answer}\n{asked}" if repeat_prompt else answer
            said = {"message": {"role": "assistant", "content": text}} if messages else {"text": text}
            choice = {"index": 0, **said, "finish_reason": "stop"}
            usage = {"prompt_tokens": len(asked) // 3, "completion_tokens": len(text) // 3}
            kind = "chat.completion" if messages else "text_completion"
            self._send({"id": "control", "object": kind, "choices": [choice], "usage": usage})

        def _send(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the parent class would write to standard error."""

    return Answering
