"""A policy bundle: a folder with `bundle.yaml` (rules), `access.cedar`, `access.cedarschema` and `tests.yaml`.

Loading is the gate: rules outside of the language, or access rules that do not fit their schema, are never served.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from policies.access.authorize import Authorizer
from policies.enforcement.compiled import CompiledCache
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import AnyRule, CodeRule, SpanRule
from policies.enforcement.scan import CompiledBundle, compile_side
from policies.enforcement.stream import placeholder
from registry.access import CedarPolicies
from registry.errors import NotFound, SpecError
from registry.specs import Spec
from registry.specs import load as load_spec

SIDES = ("input", "output")


class BundleSpec(Spec):
    """`bundle.yaml`: the rules, in the order in which they are reported."""

    name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    version: Annotated[int, pydantic.Field(ge=1)] = 1
    description: str = ""
    record: Literal["hashes", "texts"] = "hashes"
    """What the endpoint keeps of what passes: keyed hashes, or the texts too (erasable, for diff and replay)."""
    rules: list[AnyRule] = pydantic.Field(default_factory=list)

    @pydantic.field_validator("rules")
    @classmethod
    def _told_apart(cls, value: list[AnyRule]) -> list[AnyRule]:
        seen: set[str] = set()
        for rule in value:
            if rule.id in seen:
                raise ValueError(f"two rules have the id `{rule.id}`: decisions name rules by it")
            seen.add(rule.id)
        return value


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. `digest` is what decisions are bound to: the manifest id once it is registered."""

    folder: Path
    spec: BundleSpec
    access: str
    schema: str
    digest: str


def load(folder: Path, digest: str = "") -> Bundle:
    """Return the bundle in a folder; `digest` is its manifest id where it has one, else one is made from its files.

    Raises:
        NotFound: the folder or one of its files is not there.
        SpecError: a rule, a policy or the schema is wrong; names the file, and line and field where there are any.
    """
    if not folder.is_dir():
        raise NotFound(
            f"no policy bundle at `{folder}`", hint="a bundle is a folder with `bundle.yaml` and `access.cedar`"
        )
    spec = load_spec(folder / "bundle.yaml", BundleSpec)
    access, schema = _read(folder / "access.cedar"), _read(folder / "access.cedarschema")
    bundle = Bundle(folder, spec, access, schema, digest or content_digest(folder))
    _check_access(bundle)
    _check_validators(bundle)
    return bundle


def compile_bundle(bundle: Bundle, cache: CompiledCache | None = None) -> CompiledBundle:
    """Return a bundle ready to enforce; `cache` keeps compiled patterns between starts."""
    entry = compile_side(bundle.spec.rules, "input", cache)
    return CompiledBundle(
        name=f"{bundle.spec.name}:{bundle.spec.version}",
        digest=bundle.digest,
        folder=bundle.folder,
        input=entry,
        output=compile_side(bundle.spec.rules, "output", cache, like=entry),
    )


def check(folder: Path) -> list[str]:
    """Return what is wrong with a bundle, one line each; an empty list means it may be served."""
    try:
        bundle = load(folder)
        found = placeholder_hits(bundle)
    except (SpecError, NotFound) as error:
        return [error.message if error.hint is None else f"{error.message} (hint: {error.hint})"]
    return [f"rule `{hit}` matches the placeholder of rule `{rule.id}`: rename its type" for rule, hit in found]


def placeholder_hits(bundle: Bundle, enforcer: Enforcer | None = None) -> list[tuple[SpanRule, str]]:
    """Return (redacting rule, id of a rule that matches its placeholder): what is released would be found again."""
    enforcer = enforcer or Enforcer(compile_bundle(bundle))
    return [
        (rule, hit.rule)
        for rule in bundle.spec.rules
        if isinstance(rule, SpanRule) and rule.action == "redact"
        for hit in enforcer.check_output(placeholder(rule.type), exempt=_whole_rules(bundle)).hits
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"no `{path.name}` in bundle `{path.parent}`", hint="copy it from `policies/bundles/default`"
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text (byte {error.start})", file=str(path), hint="save the file as UTF-8") from None


def _check_access(bundle: Bundle) -> None:
    """Refuse policies that do not parse or fit the schema, and a schema that does not fit the endpoint's requests."""
    file = str(bundle.folder / "access.cedar")
    try:
        problems = CedarPolicies(bundle.access, bundle.schema).validate()
    except SpecError as error:
        raise SpecError(error.message, file=file, hint=error.hint) from None
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SpecError(f"{problems[0]}{more}", file=file, hint="the attributes are listed in `access.cedarschema`")
    unfit = Authorizer(bundle).unfit()
    if unfit:
        raise SpecError(
            f"the schema does not fit the endpoint's requests: {unfit}",
            file=str(bundle.folder / "access.cedarschema"),
            hint="start from `policies/bundles/default/access.cedarschema`",
        )


def _check_validators(bundle: Bundle) -> None:
    """Refuse validator files that are not in the bundle: they would not be part of what is certified."""
    root = bundle.folder.resolve()
    for rule in bundle.spec.rules:
        place = rule.target.partition(":")[0] if isinstance(rule, CodeRule) else ""
        if not place.endswith(".py"):
            continue
        file = (root / place).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            raise SpecError(
                f"rule `{rule.id}`: no file `{place}` in the bundle",
                file=str(bundle.folder / "bundle.yaml"),
                hint="validator files lie in the bundle's folder",
            )


def _whole_rules(bundle: Bundle) -> frozenset[str]:
    return frozenset(rule.id for rule in bundle.spec.rules if not isinstance(rule, SpanRule))


def content_digest(folder: Path) -> str:
    """Return a digest of a bundle's files: the same for a folder and for a checkout of what was registered from it."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            data = path.read_bytes()
            state.update(f"{name.as_posix()}\0{len(data)}\0".encode() + data)
    return "sha256:" + state.hexdigest()
