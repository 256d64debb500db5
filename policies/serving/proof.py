"""What may be served now, and until when: the certificate of a release, or the permit of an evaluation, verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from policies.serving.steady import steady_until
from registry import seals
from registry.attestation import verify_certificate, verify_permit, verify_release
from registry.errors import HallmarkError, Refused, Tampered
from registry.records import Candidate
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Target:
    """What a desk serves: an alias, whatever release it names at the time, or one permit."""

    alias: str | None = None
    permit: str | None = None

    @property
    def name(self) -> str:
        """The model's name for callers: the alias, or `permit/<id>`."""
        return self.alias if self.alias is not None else f"permit/{self.permit}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found now. `certificate` and `release` are empty under a permit.

    `expires` ends certificate or permit; `deadline` is that moment by a clock that cannot be set.
    """

    candidate: Candidate
    certificate: str
    status: Literal["certified", "permit"]
    expires: datetime
    deadline: float
    release: str = ""

    def same(self, other: Verified) -> bool:
        """Say whether both stand for the same candidate under the same certificate."""
        return (self.candidate.id, self.certificate) == (other.candidate.id, other.certificate)


def verify(ws: Workspace, target: Target) -> Verified:
    """Return what an alias or permit stands for now; raises NotFound, Refused or Tampered."""
    if target.permit is not None:
        permit = verify_permit(ws, target.permit)
        expires = datetime.fromisoformat(permit.expires)
        return Verified(permit.candidate, "", "permit", expires, steady_until(expires))
    found = verify_release(ws, target.alias or "")
    expires = datetime.fromisoformat(found.statement["predicate"]["expires"])
    return Verified(
        found.candidate, found.certificate.id, "certified", expires, steady_until(expires), found.release.id
    )


def last_good(ws: Workspace, target: Target, served: Verified) -> bool:
    """Say whether what is served may go on although its alias does not verify now.

    That is so when the journal itself moved the alias on to another release, which does not hold, while the certificate
    of what is served still does. A pointer file that says something else than the journal is no such case.
    """
    if target.alias is None or not served.certificate:
        return False
    try:
        with ws.store.reading():
            moves = seals.sealed(ws, "alias.moved", target.alias)
            if not moves or moves[-1].body["release"] in (served.release, ""):
                return False
            if ws.release(target.alias).id != moves[-1].body["release"]:
                return False
            verify_certificate(ws, served.certificate)
    except HallmarkError:
        return False
    return True


def why_not(ws: Workspace, served: Verified) -> str:
    """Return why a certificate that is served does not hold any more, or an empty text."""
    try:
        verify_certificate(ws, served.certificate)
    except (Refused, Tampered) as error:
        return error.message
    return ""
