"""An engine that somebody else runs. Nothing tells which weights answer there, so nothing it says is certified.

Its answers are as untrusted as any engine's: the gateway bounds them, checks their form and applies every output rule.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterable
from pathlib import Path

from policies.endpoint.address import Address
from policies.endpoint.upstream import Upstream
from registry.errors import EngineFailure, NotFound
from registry.protocols import Progress, silent

TEXT_SURFACES = frozenset({"chat", "completions", "responses"})
LARGEST_ANSWER = 1 << 20
PROBE_SECONDS = 10.0


class RemoteEngine:
    """An OpenAI-compatible server at a URL, with the interface of `EngineHandle`. Connections never use a proxy.

    Args:
        url: `http[s]://host[:port][/prefix]`, with or without a closing `/v1`.
        api_key_env: the environment variable that holds the key, empty for none; the key itself is nowhere written.
        ca: certificates to verify the server by; default the system's.
        surfaces: what the server offers.

    Raises:
        SpecError, Refused: the URL or the key cannot be used (`policies.endpoint.address`).
        NotFound: the variable is not set, or `ca` cannot be read.
    """

    name = "remote"
    pid = 0

    def __init__(
        self, url: str, api_key_env: str = "", *, ca: Path | None = None, surfaces: Iterable[str] = TEXT_SURFACES
    ) -> None:
        self._key = os.environ.get(api_key_env, "") if api_key_env else ""
        if api_key_env and not self._key:
            raise NotFound(f"the environment has no `{api_key_env}`", hint="it holds the remote engine's API key")
        self._url, self._ca = url, ca
        self._address = Address.of(url, api_key=self._key)
        self._tls = self._address.tls(ca)
        self.surfaces = frozenset(surfaces)
        self.version = f"remote {self._address.host}:{self._address.port}"

    def upstream(self) -> Upstream:
        """Return a new client of this engine for a gateway."""
        return Upstream.to_url(self._url, api_key=self._key, ca=self._ca)

    def alive(self) -> bool:
        """Say whether it answers now. Blocks for seconds when it does not."""
        return self._probe() == 200

    def wait_ready(self, timeout: float, progress: Progress = silent) -> None:
        """Wait until it lists its models; EngineFailure when it refuses the key, or takes too long."""
        begun = time.monotonic()
        while True:
            status = self._probe()
            waited = time.monotonic() - begun
            if status == 200:
                progress("reaching engine", waited, waited, f"{self.version} answers")
                return
            if status in (401, 403):
                raise EngineFailure(f"{self.version} refuses the API key", hint="check the variable that holds it")
            if waited > timeout:
                said = f"answered {status}" if status else "did not answer"
                raise EngineFailure(f"{self.version} {said} within {timeout:g} seconds", hint="check the URL")
            progress("reaching engine", waited, None, self.version)
            time.sleep(min(0.5, timeout))

    def stop(self) -> None:
        """Do nothing: it belongs to somebody else."""

    def _probe(self) -> int:
        """Return the status of a listing of models, 0 when nobody answers."""
        address = self._address
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=PROBE_SECONDS, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=PROBE_SECONDS)
        try:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            connection.request("GET", f"{address.prefix}/v1/models", headers=headers)
            response = connection.getresponse()
            response.read(LARGEST_ANSWER)
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return response.status
        finally:
            connection.close()
