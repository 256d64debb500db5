"""`hallmark policy` as it is typed: exit codes, what is printed, what is written."""

import json
import shutil

import pytest

from governance.setup import default_bundle

RULES = """name: house
version: 1
rules:
  - {id: key, kind: regex, side: both, type: key, pattern: '\\bkey-[0-9]{4}\\b'}
  - {id: bird, kind: terms, side: output, type: bird, action: block, terms: [nightjar]}
"""


@pytest.fixture
def policy(tmp_path):
    """A folder with a small bundle."""
    folder = tmp_path / "house"
    folder.mkdir()
    for name in ("access.cedar", "access.cedarschema"):
        shutil.copy(default_bundle() / name, folder / name)
    (folder / "bundle.yaml").write_text(RULES)
    (folder / "tests.yaml").write_text("texts:\n  - {name: a, text: key-1234, action: redact}\n")
    return folder


def other(policy, old, new, name="other"):
    """A copy of the bundle with a change."""
    folder = shutil.copytree(policy, policy.parent / name)
    (folder / "bundle.yaml").write_text(RULES.replace(old, new))
    return folder


def test_check_says_what_it_found_and_fails_on_problems_only(hallmark, policy):
    code, out, _ = hallmark("policy", "check", str(policy))
    assert code == 0
    assert "warning: tests.yaml: 1 of 2 rules are hit by no test: `bird`" in out
    assert out.endswith("house: fine\n")
    (policy / "bundle.yaml").write_text(
        RULES + "  - {id: two, kind: terms, side: output, type: b, terms: [nightjar]}\n"
    )
    code, out, _ = hallmark("policy", "check", str(policy), "--json")
    found = json.loads(out)
    assert (code, found["problems"]) == (1, 1)
    (problem,) = [each for each in found["findings"] if each["severity"] == "problem"]
    assert (problem["rules"], problem["place"]) == (["two", "bird"], "bundle.yaml:6")


def test_targets_are_a_table(hallmark, policy):
    code, out, _ = hallmark("policy", "targets", str(policy))
    assert code == 0
    assert out.splitlines()[1].split() == [
        "key",
        "regex",
        "input,",
        "output",
        "yes",
        "yes",
        "checked",
        "after",
        "decoding",
    ]
    code, out, _ = hallmark("policy", "targets", str(policy), "--json")
    assert [each["stage"] for each in json.loads(out)["rules"]] == ["checked after decoding"] * 2


def test_scenarios_are_written_the_same_by_seed(hallmark, policy, tmp_path):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        code, out, _ = hallmark(
            "policy", "scenarios", str(policy), "--per-rule", "6", "--seed", seed, "--out", str(path)
        )
        assert (code, "12 violating, 12 compliant" in out) == (0, True)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert set(rows[0]) == {"rule", "side", "kind", "form", "text", "action", "prompt", "seed"}
    code, out, _ = hallmark("policy", "scan", str(policy), "--file", str(_texts(rows, tmp_path)), "--side", "output")
    actions = {found["id"]: found["action"] for found in map(json.loads, out.splitlines())}
    assert all(actions[row["seed"]] == row["action"] for row in rows if row["side"] == "output")


def _texts(rows, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": row["seed"], "text": row["text"]}) + "\n" for row in rows))
    return path


def test_diff_of_a_file_and_of_what_an_alias_recorded(hallmark, policy, tmp_path):
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text(
        '{"id": "a", "side": "output", "text": "key-12345"}\n{"id": "b", "side": "input", "text": "hi"}\n'
    )
    wider = other(policy, "{4}", "{4,6}")
    code, out, _ = hallmark("policy", "diff", str(policy), str(policy), "--file", str(traffic))
    assert (code, out) == (0, "2 requests, 2 texts, 11 bytes: 0 changes\n")
    code, out, _ = hallmark("policy", "diff", str(policy), str(wider), "--file", str(traffic))
    assert code == 1
    assert out.splitlines()[0].split() == ["a", "output", "pass", "->", "redact", "(-", "->", "key)"]
    assert "key-12345" not in out
    code, out, _ = hallmark("policy", "diff", str(policy), str(wider), "--file", str(traffic), "--fail-on", "block")
    assert code == 0
    code, out, _ = hallmark("policy", "diff", str(policy), str(wider), "--file", str(traffic), "--show-text")
    assert "'key-12345'" in out
    code, out, _ = hallmark("policy", "diff", "default:1", str(policy), "--alias", "prod", "--json")
    assert (code, json.loads(out)) == (0, {"totals": {}, "changes": []})
    traffic.write_text('{"id": "a"}\n')
    code, _, err = hallmark("policy", "diff", str(policy), str(wider), "--file", str(traffic))
    assert (code, "needs `id`, `side`" in err) == (2, True)


def test_activation_waits_for_the_approver(hallmark, policy):
    code, _, err = hallmark("policy", "activate", str(policy))
    assert (code, "awaits approval: 0 of 1" in err) == (3, True)
    code, _, err = hallmark("policy", "approve", "house:1", "--reason", "mine", "--as", "policy-author")
    assert (code, "may not approve" in err) == (1, True)
    code, out, _ = hallmark("policy", "approve", str(policy), "--reason", "tests read")
    assert (code, out.startswith("approved bundle house:1 ")) == (0, True)
    code, out, _ = hallmark("policy", "activate", str(policy))
    assert (code, out.startswith("active for new candidates: bundle house:1 ")) == (0, True)
    code, out, _ = hallmark("policy", "activate", "house:1", "--json")
    assert (code, json.loads(out)["name"]) == (0, "house")


def test_options_that_do_not_go_together(hallmark, policy):
    code, _, err = hallmark("policy", "activate", str(policy), "--to", "prod")
    assert (code, "needs a suite" in err) == (2, True)
    code, _, err = hallmark("policy", "activate", str(policy), "--dry-run")
    assert (code, "go with `--to`" in err) == (2, True)
    suite = policy / "suite.yaml"
    suite.write_text("suite: s\n")
    code, _, err = hallmark("policy", "activate", str(policy), "--to", "prod", "--suite", str(suite), "--dry-run")
    assert (code, "unknown alias `prod`" in err) == (2, True)
