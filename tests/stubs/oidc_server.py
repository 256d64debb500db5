"""A local OpenID provider over real HTTP: discovery document, JWK set, tokens signed with keys that it can rotate."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

MADE: dict[str, Any] = {}


def make_key(algorithm: str = "RS256", kid: str = "k1") -> Any:
    """Return a private key for an algorithm; the same for the same question, since RSA keys take long to make."""
    name = f"{algorithm} {kid}"
    if name not in MADE:
        facts = {"kid": kid, "use": "sig", "alg": algorithm}
        if algorithm[:2] in ("RS", "PS"):
            MADE[name] = RSAKey.generate_key(2048, facts)
        elif algorithm[:2] == "ES":
            MADE[name] = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm], facts)
        else:
            MADE[name] = OKPKey.generate_key("Ed25519", facts)
    return MADE[name]


class OidcServer:
    """Listens on loopback while entered. `status`, `body` and `delay_s` spoil its answers; `fetches` counts them."""

    def __init__(self, algorithm: str = "RS256") -> None:
        self.algorithm = algorithm
        self.keys = [make_key(algorithm)]
        self.status, self.delay_s, self.fetches = 200, 0.0, 0
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._answers())
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> OidcServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def rotate(self, kid: str, *, keep: bool = False) -> None:
        """Sign with a new key from now on; the old one leaves the set unless it is kept."""
        self.keys = [make_key(self.algorithm, kid), *(self.keys if keep else [])]

    def key_set(self) -> dict[str, Any]:
        """Return the public JWK set."""
        return {"keys": [key.as_dict(private=False) for key in self.keys]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims; a change to None leaves one out."""
        now = int(time.time())
        good = {"iss": self.url, "sub": "ada", "aud": "hallmark", "iat": now, "exp": now + 300, "groups": ["members"]}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def issue(self, header: dict[str, Any] | None = None, key: Any = None, **changes: Any) -> str:
        """Return a signed token with these changes to good claims."""
        signer = key or self.keys[0]
        head = {"alg": self.algorithm, "kid": signer.kid, "typ": "JWT", **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return sign(head, json.dumps(self.claims(**changes)).encode(), signer)

    def _answers(server) -> type[http.server.BaseHTTPRequestHandler]:
        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(server.delay_s)
                found = {
                    "/.well-known/openid-configuration": {"issuer": server.url, "jwks_uri": f"{server.url}/keys"},
                    "/keys": server.key_set(),
                }.get(self.path)
                server.fetches += self.path == "/keys"
                body = server.body if server.body is not None else json.dumps(found).encode()
                self.send_response(server.status if found is not None else 404)
                for name, value in {"Content-Length": str(len(body)), **server.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Answers


def sign(header: dict[str, Any], payload: bytes, key: Any) -> str:
    """Return a compact JWS; any header goes, which is what a forger can do too."""
    content = b".".join(_part(part) for part in (json.dumps(header).encode(), payload))
    signature = JWSRegistry.algorithms[header["alg"]].sign(content, key)
    return (content + b"." + _part(signature)).decode()


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
