"""A refusal of the endpoint: the HTTP status, OpenAI's error shape, and the rules that decided."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class Refusal(Exception):
    """Raised to answer a request with an error. `action` is what the decision log keeps: deny, block or error."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, rules: Sequence[str] = (),
        action: str = "deny", retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.rules, self.action, self.retry_after = tuple(rules), action, retry_after

    def body(self, request_id: str) -> bytes:
        """Return the JSON body, in OpenAI's shape with the rule ids and the receipt beside the message."""
        return msgspec.json.encode({"error": self.detail(request_id)})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the response headers that belong to this refusal."""
        found = []
        if self.retry_after is not None:
            found.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found

    def detail(self, request_id: str) -> dict[str, object]:
        """Return the inner error object, as a stream's terminal event carries it too."""
        return {
            "message": self.message,
            "type": KINDS.get(self.status, "server_error"),
            "param": self.param,
            "code": self.code,
            "rules": list(self.rules),
            "request_id": request_id,
        }


def blocked(rules: Sequence[str], where: str) -> Refusal:
    """Return the refusal for content that a rule blocks; `where` is `request` or `answer`. The text is never quoted."""
    names = ", ".join(f"`{rule}`" for rule in rules)
    return Refusal(400, "content_filter", f"the {where} is blocked by {names}", rules=rules, action="block")


def no_model() -> Refusal:
    """Return the refusal for a model that is not served, or that this caller is not to know of."""
    return Refusal(404, "model_not_found", "no such model on this endpoint", param="model")


def engine_down(reason: str) -> Refusal:
    """Return the refusal for an engine that does not answer."""
    return Refusal(503, "engine_unavailable", reason, action="error", retry_after=5)


def engine_broken() -> Refusal:
    """Return the refusal for an engine whose answer cannot be used."""
    return Refusal(502, "engine_broken", "the engine did not answer properly", action="error")


def log_down() -> Refusal:
    """Return the refusal for a decision log that cannot be written."""
    message = "the decision log cannot be written"
    return Refusal(503, "log_unavailable", message, action="error", retry_after=5)


def internal() -> Refusal:
    """Return the refusal for our own failure: it says nothing about what went wrong."""
    return Refusal(500, "internal_error", "the endpoint failed and refused the request", action="error")
