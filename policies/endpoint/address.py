"""The address of an engine that somebody else runs: what may stand in its URL, and how it is spoken to."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from registry.errors import NotFound, Refused, SpecError

HINT = "write it as `https://host[:port][/prefix]`"


@dataclass(frozen=True, slots=True)
class Address:
    """Host, port and path prefix of an engine's OpenAI interface; `secure` for https."""

    host: str
    port: int
    prefix: str
    secure: bool

    @classmethod
    def of(cls, url: str, *, api_key: str = "") -> Address:
        """Read a URL whose paths begin with `/v1`; a closing `/v1` or slash is dropped.

        Raises:
            SpecError: it is not such a URL, or the key could not stand in a header.
            Refused: the key would travel unencrypted to another machine.
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise SpecError("the engine's URL holds characters that none may hold", hint=HINT)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SpecError(f"not a URL: {error}", hint=HINT) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"`{url}` is not an http or https URL", hint=HINT)
        if parts.username is not None or parts.query or parts.fragment:
            raise SpecError("an engine's URL has no user, query or fragment", hint="name the key's variable instead")
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise SpecError("the engine's API key holds characters that no header may hold", hint="check the variable")
        secure = parts.scheme == "https"
        if api_key and not secure and not _is_loopback(parts.hostname):
            raise Refused(
                f"the API key of `{parts.hostname}` would be sent unencrypted", hint="use https, or leave the key out"
            )
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if secure else 80), prefix, secure)

    def tls(self, ca: Path | None = None) -> ssl.SSLContext | None:
        """Return a context that verifies certificate and name (by `ca`, or the system's roots); None for http."""
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except (OSError, ssl.SSLError) as error:
            raise NotFound(f"no certificates in `{ca}`: {error}", hint="name a PEM file of certificates") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def headers(self, api_key: str = "") -> str:
        """Return the header lines of every request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.secure else 80)
        line = f"host: {host}{'' if usual else f':{self.port}'}\r\n"
        return line + (f"authorization: Bearer {api_key}\r\n" if api_key else "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
