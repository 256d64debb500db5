"""A policy bundle: a folder with `bundle.yaml` (rules), `access.cedar`, `access.cedarschema` and `tests.yaml`.

Loading is the gate: rules outside of the language, or access rules that do not fit their schema, are never served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from policies.authorize import ACTIONS, EXEMPT, Authorizer, Caller, ModelState
from policies.compiled import CompiledCache
from policies.engine import Enforcer, Piece
from policies.rules import AnyRule, CodeRule, SpanRule
from policies.sampled import run_samples
from policies.scan import CompiledBundle, CompiledSide, compile_side
from policies.stream import placeholder
from registry.access import CedarPolicies
from registry.errors import NotFound, SpecError, UnknownName
from registry.specs import Spec
from registry.specs import load as load_spec

SIDES = ("input", "output")
_STRENGTH = {"block": 4, "abort": 3, "redact": 2, "mask": 1}


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


class PolicyTest(pydantic.BaseModel):
    """One text through one side: what must come out. Absent fields are not looked at."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    name: str
    side: Literal["input", "output"] = "output"
    surface: Literal["chat", "completions", "responses"] = "chat"
    text: str
    action: Literal["pass", "mask", "redact", "abort", "block"]
    """The strongest action taken."""
    released: str | None = None
    rules: list[str] | None = None


class AccessTest(pydantic.BaseModel):
    """One request: whether it is allowed and by which policies; of the action `exempt`, past which `rule`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    name: str
    caller: str = "someone"
    groups: list[str] = []
    attributes: dict[str, Any] = {}
    action: str = "chat"
    rule: str = ""
    status: str = "certified"
    context: dict[str, Any] = {}
    allowed: bool
    reasons: list[str] | None = None


class TestsSpec(Spec):
    """`tests.yaml`: the tests beside the rules."""

    __test__ = False
    texts: list[PolicyTest] = pydantic.Field(default_factory=list)
    access: list[AccessTest] = pydantic.Field(default_factory=list)
    samples: Annotated[int, pydantic.Field(ge=0, le=100)] = 0
    """So many texts drawn from each rule itself must be acted on by it (`guardrails` and `python` rules apart)."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How one test of a bundle went; `detail` says what was found instead."""

    __test__ = False
    name: str
    passed: bool
    detail: str = field(default="")


def run_tests(folder: Path) -> list[TestOutcome]:
    """Return the outcome of every test in a bundle's `tests.yaml`; a bundle without the file has none.

    Each text goes through the whole-text check and, on the output side, through a stream of single characters as well.
    """
    bundle = load(folder)
    if not (folder / "tests.yaml").exists():
        return []
    tests = load_spec(folder / "tests.yaml", TestsSpec)
    enforcer, authorizer = Enforcer(compile_bundle(bundle)), Authorizer(bundle)
    texts = [_run_text(enforcer, test) for test in tests.texts]
    drawn = run_samples(enforcer, bundle.spec.rules, tests.samples)
    texts += [TestOutcome(f"samples of `{rule}`", not wrong, wrong) for rule, wrong in drawn]
    return texts + [_run_access(authorizer, test, bundle.spec.rules) for test in tests.access]


def scan_texts(compiled: CompiledBundle, records: Iterable[Mapping[str, Any]], side: str) -> Iterator[dict[str, Any]]:
    """Yield `{id, action, spans}` for each `{id, text}`; offsets are code points of the text as it was given.

    Rules that need the guard worker are not run.
    """
    examine, _ = side_check(compiled, side)
    for number, record in enumerate(records, 1):
        text = record.get("text")
        if "id" not in record or not isinstance(text, str):
            raise SpecError("a record needs `id` and a string `text`", line=number, hint='{"id": "a", "text": "..."}')
        piece = examine(text)
        spans = [{"start": hit.start, "end": hit.end, "type": hit.type, "rule": hit.rule} for hit in piece.hits]
        yield {"id": record["id"], "action": action_of(piece), "spans": spans}


def side_check(compiled: CompiledBundle, side: str) -> tuple[Callable[[str], Piece], CompiledSide]:
    """Return the check of whole texts on a side, `input` or `output`, and what is compiled for it."""
    if side not in SIDES:
        raise UnknownName("side", side, SIDES)
    enforcer = Enforcer(compiled)
    return (enforcer.check_input, compiled.input) if side == "input" else (enforcer.check_output, compiled.output)


def action_of(piece: Piece) -> str:
    """Return the strongest action taken on a text: `block`, `abort`, `redact`, `mask` or `pass`."""
    if piece.blocked is not None:
        return "abort" if piece.aborts else "block"
    return max((hit.action for hit in piece.hits), key=lambda action: _STRENGTH[action], default="pass")


def _run_text(enforcer: Enforcer, test: PolicyTest) -> TestOutcome:
    exempt = enforcer.guards_off(test.surface)
    check_side = enforcer.check_input if test.side == "input" else enforcer.check_output
    piece = check_side(test.text, exempt=exempt)
    if test.side == "output":
        stream = enforcer.stream(exempt=exempt)
        pieces = [stream.push(char) for char in test.text]
        pieces.append(stream.finish())
        text, blocked = "".join(each.text for each in pieces), next((p.blocked for p in pieces if p.blocked), None)
        if (text, blocked) != (piece.text, piece.blocked):
            return TestOutcome(test.name, False, f"streamed it releases {text!r}, whole {piece.text!r}")
    action, rules = action_of(piece), sorted({hit.rule for hit in piece.hits})
    if action != test.action:
        return TestOutcome(test.name, False, f"action is `{action}` by {rules or 'no rule'}, expected `{test.action}`")
    if test.released is not None and piece.text != test.released:
        return TestOutcome(test.name, False, f"releases {piece.text!r}")
    if test.rules is not None and rules != sorted(test.rules):
        return TestOutcome(test.name, False, f"rules are {rules}")
    return TestOutcome(test.name, True)


def _run_access(authorizer: Authorizer, test: AccessTest, rules: Sequence[AnyRule]) -> TestOutcome:
    caller = Caller(test.caller, frozenset(test.groups), test.attributes, "test")
    if test.action == EXEMPT:
        known = {rule.id for rule in rules}
        if test.rule not in known:
            raise UnknownName("rule", test.rule, known)
        past = authorizer.exemptions(caller, ModelState("model", "", "", test.status), rules)
        right = (test.rule in past) == test.allowed
        return TestOutcome(test.name, right, "" if right else f"exempt from {sorted(past) or 'no rule'}")
    action = next((known for known in ACTIONS if known == test.action), None)
    if action is None:
        raise UnknownName("action", test.action, ACTIONS)
    found = authorizer.decide(caller, action, ModelState("model", "", "", test.status), test.context)
    passed = found.allowed == test.allowed and (test.reasons is None or sorted(test.reasons) == sorted(found.reasons))
    word = "allowed" if found.allowed else "denied"
    return TestOutcome(test.name, passed, "" if passed else f"{word} by {found.reasons or found.errors or 'default'}")


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
