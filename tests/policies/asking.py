"""How the gateway's tests ask: OpenAI's client and plain HTTP, over one pool of connections."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai

from tests.policies.running import Running

HTTP = httpx.Client(timeout=20, trust_env=False)
ASK: Any = [{"role": "user", "content": "what is the key?"}]


def client(run: Running, name: str = "mia") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{run.url}/v1", api_key=run.keys[name], max_retries=0, http_client=HTTP)


def post(run: Running, body: Any, name: str = "mia", path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {run.keys.get(name, name)}", "content-type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTP.post(run.url + path, content=content, headers=headers | more.pop("headers", {}), timeout=20)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "stdlib", "messages": ASK, **more}


def streamed(run: Running, **more: Any) -> str:
    chunks = client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True, **more)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def raw(run: Running, head: str, body: bytes = b"") -> bytes:
    """Send bytes as they are; return what comes back until the endpoint closes or says nothing for a while."""
    host, port = run.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=3) as wire:
        wire.sendall(head.encode() + body)
        got = b""
        try:
            while data := wire.recv(65_536):
                got += data
        except TimeoutError:
            pass
        return got
