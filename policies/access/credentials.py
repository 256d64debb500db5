"""`[[issuers]]` and `[tls]` of hallmark.toml: whose tokens and certificates name callers, and the endpoint's TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from policies.access.callers import RESERVED, Callers
from policies.access.certificates import PREFIX, Certificates, Naming
from policies.access.jwks import ALGORITHMS, KeySource, of_file, of_issuer, of_url, read_keys
from policies.access.tls import server_context
from policies.access.tokens import Issuer, Tokens
from registry import seals
from registry.errors import NotFound, SpecError
from registry.settings import FILE, Settings
from registry.workspace import Workspace

Text = Annotated[str, pydantic.Field(min_length=1, max_length=512)]
S = TypeVar("S", bound="_Table")


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class IssuerSpec(_Table):
    """One `[[issuers]]` table. `jwks` is a file (relative to the workspace) or URL; without it discovery finds it.

    `groups` maps the issuer's groups to those of access rules, and only mapped ones count; without it a group is
    named `<group_prefix><group>`. `claims` maps attributes to claims, `attributes` sets them for every caller and wins.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    issuer: Text
    audience: Text | Annotated[list[Text], pydantic.Field(min_length=1)]
    algorithms: Annotated[list[str], pydantic.Field(min_length=1)] = ["RS256"]
    jwks: str = ""
    jwks_ca: str = ""
    """PEM of the authority that signed the certificate of the keys' server; empty: those the system trusts."""
    name_claim: Text = "sub"
    groups_claim: Text = "groups"
    group_prefix: str | None = None
    groups: dict[str, str] = {}
    attributes: dict[str, Any] = {}
    claims: dict[str, str] = {}
    max_age_s: Annotated[float, pydantic.Field(gt=0)] = 86_400.0
    leeway_s: Annotated[float, pydantic.Field(ge=0, le=300)] = 30.0
    refresh_s: Annotated[float, pydantic.Field(ge=10)] = 300.0
    keep_s: Annotated[float, pydantic.Field(ge=60)] = 3600.0
    """How long the last good keys count while new ones cannot be had."""

    @pydantic.field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: list[str]) -> list[str]:
        unknown = [each for each in value if each not in ALGORITHMS]
        if unknown:
            raise ValueError(f"`{unknown[0]}` is not accepted: {', '.join(ALGORITHMS)}")
        return value


class TlsSpec(_Table):
    """The `[tls]` table; files are PEM, relative to the workspace.

    `callers` are the kinds of name (`uri`, `dns`, `cn`) by which a certificate names a caller, in order; with none a
    certificate only binds keys and tokens. `groups` is the part of its subject (`ou`, `o`) that names groups.
    """

    cert: Text
    key: Text
    client_ca: str = ""
    client_required: bool = False
    crl: str = ""
    callers: list[Literal["uri", "dns", "cn"]] = ["uri", "dns", "cn"]
    groups: Literal["", "ou", "o"] = ""
    group_prefix: str = f"{PREFIX}:"
    attributes: dict[str, Any] = {}

    @pydantic.model_validator(mode="after")
    def _authority(self) -> TlsSpec:
        if not self.client_ca and (self.crl or self.client_required):
            raise ValueError("without `client_ca` no client certificate can be verified")
        return self


def callers_of(ws: Workspace, extra_callers: Sequence[Mapping[str, Any]] = ()) -> Callers:
    """Return who may call an endpoint of a workspace: its keys, its issuers' tokens, its authority's certificates.

    Raises SpecError or NotFound when a setting or a file it names is wrong. Keys that are fetched may come later.
    """
    tokens, certificates = tokens_of(ws), certificates_of(ws)
    revoked: Callable[[], Sequence[str]] = lambda: revoked_callers(ws) if tokens or certificates else ()  # noqa: E731
    return Callers(lambda: [*ws.callers(), *extra_callers], tokens=tokens, certificates=certificates, revoked=revoked)


def revoked_callers(ws: Workspace) -> list[str]:
    """Return the names of token and certificate callers that an operator sent away. Raises Tampered or Refused."""
    return [event.subject for event in seals.sealed(ws, "caller.revoked") if event.subject.startswith(RESERVED)]


def tokens_of(ws: Workspace) -> Tokens | None:
    """Return the tokens that name callers, or None without an issuer. Raises SpecError or NotFound."""
    specs = [_read(IssuerSpec, table, f"issuers.{n}") for n, table in enumerate(ws.settings.issuers)]
    for what in ("name", "issuer"):
        values = [getattr(spec, what) for spec in specs]
        if len(set(values)) < len(values):
            raise SpecError(f"two issuers have the same `{what}`", file=FILE, field="issuers", hint="tell them apart")
    return Tokens([_issuer(ws.root, spec) for spec in specs]) if specs else None


def certificates_of(ws: Workspace) -> Certificates | None:
    """Return the certificates that name callers, or None without an authority. Raises SpecError or NotFound."""
    spec = _read(TlsSpec, ws.settings.tls, "tls") if ws.settings.tls else None
    if spec is None or not spec.client_ca:
        return None
    naming = Naming(spec.callers, spec.groups, spec.group_prefix, spec.attributes)
    return Certificates(naming, crl=ws.root / spec.crl if spec.crl else None, client_ca=ws.root / spec.client_ca)


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of an endpoint, or None where no `[tls]` is set. Raises SpecError or NotFound."""
    if not settings.tls:
        return None
    spec, root = _read(TlsSpec, settings.tls, "tls"), settings.root
    authority = root / spec.client_ca if spec.client_ca else None
    return server_context(root / spec.cert, root / spec.key, authority, required=spec.client_required)


def _issuer(root: Path, spec: IssuerSpec) -> Issuer:
    prefix = f"{spec.name}:" if spec.group_prefix is None else spec.group_prefix
    audiences = [spec.audience] if isinstance(spec.audience, str) else spec.audience
    keys = KeySource(_reader(root, spec), refresh_s=_interval(spec), keep_s=spec.keep_s)
    return Issuer(
        spec.name, spec.issuer, frozenset(audiences), frozenset(spec.algorithms), keys, spec.name_claim,
        spec.groups_claim, prefix, spec.groups, spec.attributes, spec.claims, spec.max_age_s, spec.leeway_s,
    )  # fmt: skip


def _reader(root: Path, spec: IssuerSpec) -> Callable[[], bytes]:
    """Return what reads an issuer's keys; a file must be there and usable at the start."""
    authority = root / spec.jwks_ca if spec.jwks_ca else None
    if not spec.jwks:
        return of_issuer(spec.issuer, authority)
    if "://" in spec.jwks:
        return of_url(spec.jwks, authority)
    read = of_file(root / spec.jwks)
    try:
        read_keys(read())
    except FileNotFoundError:
        raise NotFound(f"no file `{root / spec.jwks}`", hint="see `jwks` in `[[issuers]]` of hallmark.toml") from None
    except (ValueError, OSError) as error:
        raise SpecError(f"no usable keys: {error}", file=str(root / spec.jwks), hint="see RFC 7517") from None
    return read


def _interval(spec: IssuerSpec) -> float:
    """Return how often keys are read: a file is cheap."""
    return spec.refresh_s if not spec.jwks or "://" in spec.jwks else min(10.0, spec.refresh_s)


def _read(model: type[S], table: Mapping[str, Any], place: str) -> S:
    try:
        return model.model_validate(dict(table))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join([place, *map(str, first["loc"])])
        raise SpecError(first["msg"], file=FILE, field=where, hint="docs/policies.md lists the settings") from None
