"""The rules of a bundle: what each kind looks for, on which side, and what happens then. Pure data, checked on load."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

import pydantic

from policies.enforcement import json_schemas
from policies.enforcement.checksums import CHECKS
from policies.enforcement.language import Language, Script, speaks
from policies.enforcement.normalize import see
from policies.enforcement.pattern import Branch, PatternError, literal, parse
from policies.enforcement.whole_match import whole_match

Side = Literal["input", "output", "both"]
Id = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Type = Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Term = Annotated[str, pydantic.Field(min_length=1, max_length=256)]


def _known_check(name: str) -> str:
    if name not in CHECKS:
        raise PatternError(f"there is no check `{name}`: one of {', '.join(sorted(CHECKS))}")
    return name


Check = Annotated[
    str, pydantic.AfterValidator(_known_check), pydantic.Field(json_schema_extra={"enum": sorted(CHECKS)})
]
View = Literal["exact", "plain", "folded", "lookalike"]
Coding = Literal["base64", "hex", "url"]
Surface = Literal["chat", "completions", "responses"]


class Rule(pydantic.BaseModel):
    """What all kinds share. `type` is what the placeholder says and the decision log counts."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    id: Id
    side: Side
    description: str = ""

    def applies_to(self, side: str) -> bool:
        """Say whether the rule is enforced on a side, `input` or `output`."""
        return self.side in (side, "both")


class SpanRule(Rule):
    """A rule that finds spans of text, in a stream as well as in a whole text."""

    type: Type
    action: Literal["redact", "mask", "block", "abort"] = "redact"
    """`block` refuses, `abort` ends an answer there as if it were finished; on an input both refuse."""
    view: View = "exact"
    """`plain`: NFKC, without invisible characters. `folded`: also without case and accents. `lookalike`: also letters
    of other scripts as the ASCII letters that they look like."""
    decoded: list[Coding] = []
    """The rule also reads what runs of these codings say; the part of the run that says it is the match."""

    def branches(self) -> tuple[Branch, ...]:
        """Return the alternatives that make a match, on the rule's view."""
        raise NotImplementedError

    @property
    def folded(self) -> bool:
        """Whether its view ignores case."""
        return self.view in ("folded", "lookalike")

    @property
    def stops(self) -> bool:
        """Whether a match ends the text: nothing after it leaves."""
        return self.action in ("block", "abort")


class RegexRule(SpanRule):
    """A bounded pattern. `check` names a checksum that the matched text must pass as well.

    With `until`, everything from a match on is dropped up to the end of the first match of `until` after it, or of the
    text; one placeholder stands for all of it.
    """

    kind: Literal["regex"]
    pattern: str
    check: Check | None = None
    until: str | None = None

    @pydantic.field_validator("pattern", "until")
    @classmethod
    def _in_language(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    @pydantic.model_validator(mode="after")
    def _on_view(self) -> Self:
        self.branches()
        if self.until is not None:
            if self.action != "redact":
                raise PatternError("`until` drops text: it goes with `action: redact` only")
            self.until_branches()
        return self

    def branches(self) -> tuple[Branch, ...]:
        """Return the alternatives of the pattern, on the rule's view."""
        return parse(self.pattern, view=self.view)

    def until_branches(self) -> tuple[Branch, ...]:
        """Return the alternatives of what ends the dropped part, on the rule's view; none without `until`."""
        return () if self.until is None else parse(self.until, view=self.view)

    def passes(self, text: str) -> bool:
        """Say whether a matched text passes the rule's check."""
        return self.check is None or CHECKS[self.check](text if text.isascii() else see(text, "plain"))


class TermsRule(SpanRule):
    """Words and phrases, found whatever their case, width, accents and invisible characters."""

    kind: Literal["terms"]
    view: View = "folded"
    terms: Annotated[list[Term], pydantic.Field(min_length=1)]
    whole_words: bool = True
    decode: Literal["bad_words"] | None = None
    """`bad_words` also forbids the engine to write the terms as they are spelled here."""

    @pydantic.model_validator(mode="after")
    def _not_empty(self) -> Self:
        self.branches()
        return self

    def branches(self) -> tuple[Branch, ...]:
        """Return one alternative a term."""
        return tuple(literal(term, view=self.view, whole_words=self.whole_words) for term in self.terms)


class TopicRule(SpanRule):
    """A subject told by its keywords: stops once `at_least` different ones were seen. Keywords match as terms do."""

    kind: Literal["topic"]
    type: Type = "topic"
    action: Literal["block", "abort"] = "block"
    view: Literal["folded", "lookalike"] = "folded"
    keywords: Annotated[list[Term], pydantic.Field(min_length=1)]
    at_least: Annotated[int, pydantic.Field(ge=1)] = 1

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Self:
        different = len(self.branches())
        if self.at_least > different:
            raise PatternError(f"`at_least` is {self.at_least}, with {different} different keywords it never blocks")
        return self

    def branches(self) -> tuple[Branch, ...]:
        """Return one alternative a keyword; keywords that read the same on the view are one."""
        different = {tuple(see(word, self.view).split()): word for word in self.keywords}
        return tuple(literal(word, view=self.view, whole_words=True) for word in different.values())


class MaxLengthRule(Rule):
    """Blocks at the first character after `characters` code points."""

    kind: Literal["max_length"]
    type: Type = "max_length"
    action: Literal["block"] = "block"
    characters: Annotated[int, pydantic.Field(ge=1)]


class JsonSchemaRule(Rule):
    """The answer is JSON of this schema: enforced while decoding, then checked on the whole text before it is sent."""

    kind: Literal["json_schema"]
    side: Literal["output"] = "output"
    type: Type = "json_schema"
    action: Literal["block"] = "block"
    schema_: Annotated[dict[str, Any], pydantic.Field(alias="schema")]

    @pydantic.field_validator("schema_")
    @classmethod
    def _closed(cls, value: dict[str, Any]) -> dict[str, Any]:
        for reference in _references(value):
            if not reference.startswith("#"):
                raise PatternError(f"`$ref` {reference!r} leaves the document: copy the definition into `$defs`")
        wrong = json_schemas.mistake(value)
        if wrong:
            raise PatternError(f"not a JSON schema: {wrong}")
        return value

    def accepts(self, text: str) -> bool:
        """Say whether a whole text is JSON that fits the schema."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False
        return json_schemas.fits(self.schema_, value)


class ChoiceRule(Rule):
    """The whole answer is one of `choices`: enforced while decoding, checked on the whole text before it is sent."""

    kind: Literal["choice"]
    side: Literal["output"] = "output"
    type: Type = "choice"
    action: Literal["block"] = "block"
    choices: Annotated[list[str], pydantic.Field(min_length=1)]

    def accepts(self, text: str) -> bool:
        """Say whether a whole text is one of the choices."""
        return text in self.choices


class FormatRule(Rule):
    """The whole answer is a match of `pattern`: enforced while decoding, checked on the whole text before it is sent.

    The pattern is of the bounded language, without word edges.
    """

    kind: Literal["format"]
    side: Literal["output"] = "output"
    type: Type = "format"
    action: Literal["block"] = "block"
    pattern: str

    @pydantic.field_validator("pattern")
    @classmethod
    def _of_whole_texts(cls, value: str) -> str:
        whole_match(value)
        return value

    @property
    def source(self) -> str:
        """The pattern as engines are given it."""
        return whole_match(self.pattern).source

    def branches(self) -> tuple[Branch, ...]:
        """Return the alternatives of the pattern."""
        return whole_match(self.pattern).branches

    def accepts(self, text: str) -> bool:
        """Say whether a whole text is a match."""
        return whole_match(self.pattern).accepts(text)


class LanguageRule(Rule):
    """The whole text is in languages and scripts of these lists, as far as they are told; see `language`.

    A text whose language is not told (short, code, a mixture) passes unless `unknown: block`.
    """

    kind: Literal["language"]
    type: Type = "language"
    action: Literal["block"] = "block"
    languages: Annotated[list[Language], pydantic.Field(min_length=1)]
    scripts: Annotated[list[Script], pydantic.Field(min_length=1)] = ["latin"]
    """Letters of other scripts may not prevail. The languages told are of Latin script."""
    unknown: Literal["pass", "block"] = "pass"

    def accepts(self, text: str) -> bool:
        """Say whether every part of a whole text is in the allowed languages and scripts."""
        return speaks(text, frozenset(self.languages), frozenset(self.scripts), unknown=self.unknown == "pass")


class CodeRule(Rule):
    """What rules share that a worker process decides on the whole text; whatever goes wrong there blocks."""

    side: Side = "output"
    type: Type = "guard"
    action: Literal["block", "redact", "mask"] = "block"
    """`redact` and `mask` replace the spans that the code names, or the whole text."""
    kwargs: dict[str, Any] = {}
    surfaces: Annotated[list[Surface], pydantic.Field(min_length=1)] = ["chat", "completions", "responses"]
    """Where answers are checked: there they are sent once they are whole, elsewhere they stream. Inputs always are."""
    deadline_s: Annotated[float, pydantic.Field(gt=0, le=60)] = 2.0
    memory_mb: Annotated[int, pydantic.Field(ge=0, le=1 << 20)] = 0
    """Address space of the worker; 0 leaves the default: 1024 for `python`, 8192 where `guardrails` is loaded."""

    @property
    def target(self) -> str:
        """Where the code is: `module:name`, or `file.py:name` for a file of the bundle."""
        raise NotImplementedError


class GuardrailsRule(CodeRule):
    """A guardrails-ai validator, run on the whole text by the guard worker.

    `validator` is `module:Class`, or `file.py:Class` for a file of the bundle.
    """

    kind: Literal["guardrails"]
    validator: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z_][\w./-]*:[A-Za-z_]\w*$")]

    @property
    def target(self) -> str:
        """Where the validator's class is."""
        return self.validator


class PythonRule(CodeRule):
    """A function of a file in the bundle: takes the text (and `kwargs`), returns what it thinks of it.

    None, True or an empty list pass. False or a message fail; so does a list of (start, end) code points, which are
    what `redact` and `mask` replace. Anything else, an exception, or no answer in `deadline_s` blocks.
    """

    kind: Literal["python"]
    function: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z_][\w/-]*\.py:[A-Za-z_]\w*$")]

    @property
    def target(self) -> str:
        """Where the function is."""
        return self.function


AnyRule = Annotated[
    RegexRule
    | TermsRule
    | TopicRule
    | MaxLengthRule
    | JsonSchemaRule
    | ChoiceRule
    | FormatRule
    | LanguageRule
    | GuardrailsRule
    | PythonRule,
    pydantic.Field(discriminator="kind"),
]


WholeRule = JsonSchemaRule | ChoiceRule | FormatRule | LanguageRule
"""Rules on the whole text, which no part of it breaks."""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in _references(item)]
    if isinstance(value, list):
        return [found for item in value for found in _references(item)]
    return []
