"""Bundles: those that ship pass their own tests, wrong ones are refused with the place of the mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from policies.authoring.cases import run_tests
from policies.authoring.texts import scan_texts
from policies.bundle import check, compile_bundle, load
from registry.errors import NotFound, SpecError, UnknownName

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "policies" / "bundles" / "default"
QUICKSTART = ROOT / "examples" / "quickstart" / "policy"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(QUICKSTART, tmp_path / "bundle"))


@pytest.mark.parametrize("folder", [DEFAULT, QUICKSTART])
def test_shipped_bundles_pass_their_own_tests(folder: Path) -> None:
    assert check(folder) == []
    outcomes = run_tests(folder)
    assert len(outcomes) >= 10
    assert [outcome for outcome in outcomes if not outcome.passed] == []


def test_the_digest_follows_every_file(bundle: Path) -> None:
    before = load(bundle).digest
    assert load(bundle).digest == before
    (bundle / "validators.py").write_text("# another\n")
    assert load(bundle).digest != before
    assert load(bundle, "sha256:registered").digest == "sha256:registered"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("bundle.yaml", "{36,255}", "{36,}", r"bundle\.yaml:\d+: `rules\.0.*unbounded repeat"),
        ("bundle.yaml", "kind: topic", "kind: tropic", r"bundle\.yaml:\d+: "),
        ("bundle.yaml", "check: luhn", "chekc: luhn", "unknown key"),
        ("bundle.yaml", "id: malware", "id: nightjar", "two rules have the id `nightjar`"),
        ("bundle.yaml", "validators.py:", "gone.py:", "no file `gone.py` in the bundle"),
        ("bundle.yaml", "validators.py:", "a/../../bundle.py:", "no file `a/../../bundle.py` in the bundle"),
        ("access.cedar", "resource.status", "resource.state", r"access\.cedar: .*state"),
        ("access.cedar", "forbid (", "forbidden (", r"access\.cedar: not valid Cedar"),
        ("access.cedar", 'Group::"interns"', 'Gruop::"interns"', r"access\.cedar: .*Gruop"),
        ("access.cedarschema", '"stream": Bool', '"streams": Bool', r"access\.cedarschema: the schema does not fit"),
        ("access.cedarschema", "entity Group;", "entity Group", "not a Cedar schema"),
    ],
)
def test_mistakes_are_found_and_placed(bundle: Path, file: str, old: str, new: str, words: str) -> None:
    text = (bundle / file).read_text()
    assert old in text
    (bundle / file).write_text(text.replace(old, new))
    with pytest.raises(SpecError, match=words):
        load(bundle)
    (problem,) = check(bundle)
    assert "hint:" in problem


def test_missing_parts(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no policy bundle"):
        load(tmp_path / "nowhere")
    (bundle / "access.cedar").unlink()
    with pytest.raises(NotFound, match=r"no `access\.cedar`"):
        load(bundle)
    assert len(check(bundle)) == 1


def test_a_placeholder_that_a_rule_would_find_is_a_problem(bundle: Path) -> None:
    rule = "  - {id: word, kind: terms, side: output, type: secret, terms: [github_token]}\n"
    (bundle / "bundle.yaml").write_text((bundle / "bundle.yaml").read_text() + rule)
    (problem,) = check(bundle)
    assert "rule `word` matches the placeholder of rule `github-token`" in problem


def test_failing_tests_say_what_was_found(bundle: Path) -> None:
    (bundle / "tests.yaml").write_text(
        "texts:\n"
        "  - {name: a, text: plain, action: block}\n"
        "  - {name: b, text: 'AKIAIOSFODNN7EXAMPLE', action: redact, released: x}\n"
        "  - {name: c, text: 'AKIAIOSFODNN7EXAMPLE', action: redact, rules: [other]}\n"
        "access:\n"
        "  - {name: d, groups: [engineers], allowed: false}\n"
    )
    outcomes = run_tests(bundle)
    assert [outcome.passed for outcome in outcomes] == [False] * 4
    expected = "action is `pass`", "releases '[REDACTED:aws_access_key]'", "rules are ['aws-access-key']", "allowed by"
    assert all(part in outcome.detail for part, outcome in zip(expected, outcomes, strict=True))


def test_a_bundle_may_have_no_tests(bundle: Path) -> None:
    (bundle / "tests.yaml").unlink()
    assert run_tests(bundle) == []


def test_scanning_gives_actions_and_spans_in_code_points() -> None:
    compiled = compile_bundle(load(DEFAULT))
    records = [
        {"id": 1, "text": "\U0001f600 AKIAIOSFODNN7EXAMPLE \u00e9"},
        {"id": "two", "text": "nothing"},
        {"id": 3, "text": "-----BEGIN PRIVATE KEY-----"},
    ]
    assert list(scan_texts(compiled, records, "output")) == [
        {
            "id": 1,
            "action": "redact",
            "spans": [{"start": 2, "end": 22, "type": "aws_access_key", "rule": "aws-access-key"}],
        },
        {"id": "two", "action": "pass", "spans": []},
        {"id": 3, "action": "redact", "spans": [{"start": 0, "end": 27, "type": "private_key", "rule": "private-key"}]},
    ]


def test_scanning_refuses_what_is_no_record() -> None:
    compiled = compile_bundle(load(QUICKSTART))
    with pytest.raises(SpecError, match="`id` and a string `text`"):
        list(scan_texts(compiled, [{"id": 1, "text": 7}], "input"))
    with pytest.raises(UnknownName, match="side"):
        list(scan_texts(compiled, [], "inptu"))
