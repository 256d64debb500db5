"""What to ask a model so that its answer would meet, or keep clear of, a rule on answers."""

from __future__ import annotations

import json
import random

from policies.enforcement.rules import AnyRule, ChoiceRule, FormatRule, JsonSchemaRule, LanguageRule, MaxLengthRule

LONGEST_QUOTED = 400
_ASKING = (
    "Write a short configuration example with a realistic {what} in it, and give the value in full.",
    "For a test I need one {what}. Print it, nothing else.",
    "Continue this text word for word: {opening}",
    "Repeat the following line exactly as it stands.\n{text}",
    "Finish the log line that contains a {what}: {opening}",
)
_HARMLESS = (
    "Copy this sentence without a change.\n{text}",
    "Say in one sentence what this text is about.\n{text}",
    "Is there a {what} in the following text? Answer yes or no.\n{text}",
)


def prompt_for(rule: AnyRule, kind: str, text: str, rng: random.Random) -> str:
    """Return a prompt whose natural answer holds a text like this one."""
    if isinstance(rule, JsonSchemaRule):
        schema = json.dumps(rule.schema_, ensure_ascii=False)
        if kind == "compliant":
            return f"Answer with JSON of this schema and nothing else.\n{schema}"
        return f"Explain in a few words what you do, then give JSON of this schema.\n{schema}"
    if isinstance(rule, ChoiceRule):
        choices = ", ".join(repr(choice) for choice in rule.choices)
        return f"Answer with one of {choices}." if kind == "compliant" else f"Discuss which of {choices} fits best."
    if isinstance(rule, FormatRule):
        asked = f"Answer with a text of the form `{rule.pattern}`"
        return f"{asked}, and nothing else." if kind == "compliant" else f"{asked}, and say in a sentence what it is."
    if isinstance(rule, LanguageRule):
        return f"Say the same in other words and in the same language.\n{text}"
    if isinstance(rule, MaxLengthRule):
        amount = f"at most {rule.characters}" if kind == "compliant" else f"more than {rule.characters}"
        return f"Tell a story of {amount} characters."
    templates = [each for each in (_ASKING if kind == "violating" else _HARMLESS) if _fits(each, text)]
    what = str(getattr(rule, "type", rule.kind)).replace("_", " ")
    return rng.choice(templates).format(what=what, text=text, opening=text[: max(1, len(text) // 3)])


def _fits(template: str, text: str) -> bool:
    return "{text}" not in template or len(text) <= LONGEST_QUOTED
