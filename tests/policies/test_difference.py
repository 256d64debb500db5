"""`policy diff`: the same traffic through two bundles; what changes, by text and by request, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from policies.authoring.difference import Asked, Side, compare, from_recordings, from_records
from policies.bundle import load
from policies.endpoint.recording import Recorded
from registry.errors import SpecError

ROOT = Path(__file__).resolve().parents[2]
KEY = "{id: key, kind: regex, side: both, type: key, pattern: 'key-[0-9]{4}'}"
BIRD = "{id: bird, kind: terms, side: both, type: bird, action: block, terms: [nightjar]}"
ACCESS = '@id("members") permit (principal in Group::"members", action, resource);\n'


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory):
    def make(*rules: str, access: str = ACCESS) -> Side:
        folder = tmp_path_factory.mktemp("side")
        shutil.copy(ROOT / "policies" / "bundles" / "default" / "access.cedarschema", folder)
        (folder / "access.cedar").write_text(access)
        (folder / "bundle.yaml").write_text("name: one\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules))
        return Side(load(folder))

    return make


def asked(*texts: str, side: str = "output") -> list[Asked]:
    return list(from_records({"id": number, "side": side, "text": text} for number, text in enumerate(texts)))


def test_the_same_rules_change_nothing(side) -> None:
    found = compare(side(KEY), side(KEY), asked("key-1234", "fine"))
    assert (found.changes, found.totals["texts"], found.totals["bytes"]) == ([], 2, 12)
    assert found.lines() == ["2 requests, 2 texts, 12 bytes: 0 changes"]


def test_a_rule_more_is_seen_where_it_acts(side) -> None:
    found = compare(side(KEY), side(KEY, BIRD), asked("key-1234", "a nightjar sings", "fine"))
    (change,) = found.changes
    assert (change.id, change.before.action, change.after.action, change.kind) == ("1", "pass", "block", "block")
    assert change.after.spans == ((2, 10, "bird"),)
    assert found.totals["move pass -> block"] == 1
    assert (found.counts(), found.counts("block"), found.counts("access")) == (1, 1, 0)


def test_texts_are_shown_only_when_asked_for(side) -> None:
    found = compare(side(KEY), side(KEY, BIRD), asked("a nightjar sings"))
    assert "sings" not in "\n".join(found.lines()) + str(found.changes[0].plain())
    assert "sings" in "\n".join(found.lines(show_text=True))
    assert found.changes[0].plain(show_text=True)["text"] == "a nightjar sings"


def test_another_span_alone_is_a_change(side) -> None:
    wider = KEY.replace("{4}", "{4,8}")
    (change,) = compare(side(KEY), side(wider), asked("key-123456")).changes
    assert (change.before.spans, change.after.spans) == (((0, 8, "key"),), ((0, 10, "key"),))
    assert change.kind == "other"


def test_access_is_compared_for_requests_with_a_caller(side) -> None:
    strict = ACCESS + '@id("interns") forbid (principal in Group::"interns", action == Action::"chat", resource);\n'
    traffic = list(from_records([
        {"id": "a", "side": "input", "text": "hi", "caller": "ada", "groups": ["members", "interns"]},
        {"id": "b", "side": "input", "text": "hi", "caller": "bob", "groups": ["members"]},
        {"id": "c", "side": "input", "text": "hi", "caller": "ada", "groups": ["members", "interns"],
         "surface": "completions"},
    ]))  # fmt: skip
    found = compare(side(KEY), side(KEY, access=strict), traffic)
    assert [(each.id, each.side, each.before.action, each.after.action) for each in found.changes] == [
        ("a", "access", "allow", "deny")
    ]
    assert found.changes[0].after.rules == ("interns",)
    assert found.counts("access") == 1


def test_recorded_requests_are_replayed_with_their_caller_and_channels(side) -> None:
    one = Recorded(
        "req-1", "2026-01-01T00:00:00Z", "prod", "responses", "ada", ("members",), {}, "{}", ("a nightjar?", "no"),
        (("0/content", "key-[REDACTED:key]"), ("0/reasoning", "the nightjar")), "pass", (), "", "",
    )  # fmt: skip
    found = compare(side(KEY), side(KEY, BIRD), from_recordings([one]))
    assert [(each.id, each.side, each.channel) for each in found.changes] == [
        ("req-1", "input", "0"),
        ("req-1", "output", "0/reasoning"),
    ]
    assert found.totals["requests"] == 1


@pytest.mark.parametrize(
    "record", [{"id": 1}, {"text": "a"}, {"id": 1, "text": 3}, {"id": 1, "text": "a", "side": "up"}]
)
def test_a_record_that_is_none_is_named_by_its_line(record: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"1: .*needs `id`, `side`") as told:
        list(from_records([record]))
    assert told.value.line == 1
