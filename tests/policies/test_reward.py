"""The reward: terms by rule, between 0 and 1, pinned to the bundle's digest, the same in a child process."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policies.authoring.reward import PARSES, Reward
from policies.bundle import content_digest, load
from registry.errors import Tampered
from registry.scorers import SCORERS

ROOT = Path(__file__).resolve().parents[2]
RULES = """
name: small
rules:
  - {id: key, kind: regex, side: both, type: key, pattern: 'key-[0-9]{4}'}
  - {id: bird, kind: terms, side: output, type: bird, action: block, terms: [nightjar]}
  - {id: long, kind: max_length, side: output, characters: 100}
  - {id: asked, kind: terms, side: input, type: asked, terms: [please]}
  - {id: own, kind: guardrails, side: output, validator: 'validators.py:Own'}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "bundle"
    folder.mkdir()
    for name in ("access.cedar", "access.cedarschema"):
        shutil.copy(ROOT / "policies" / "bundles" / "default" / name, folder / name)
    (folder / "bundle.yaml").write_text(RULES)
    (folder / "validators.py").write_text("class Own: ...\n")
    return folder


@pytest.fixture(scope="module")
def reward(folder: Path) -> Reward:
    return Reward(load(folder))


def test_a_clean_answer_is_worth_one(reward: Reward) -> None:
    score = reward.score("nothing to see, please")
    assert (score.value, score.terms, score.bundle) == (1.0, {}, reward.digest)


def test_terms_multiply_and_a_stop_is_zero(reward: Reward) -> None:
    assert reward.score("key-1234").terms == {"key": 0.5}
    assert reward.score("key-1234 and key-5678").value == pytest.approx(1 / 3)
    score = reward.score("the nightjar has key-1234")
    assert (score.value, score.terms) == (0.0, {"bird": 0.0, "key": 0.5})  # what follows the stop is scored as well
    longer = reward.score("a" * 200)
    assert longer.terms == {"long": 0.5}


def test_json_that_is_nearly_right_is_worth_more_than_none(tmp_path: Path, folder: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "json"))
    (other / "bundle.yaml").write_text(
        "name: shape\nrules:\n  - {id: shape, kind: json_schema, side: output, schema: {type: object, required: [a]}}\n"
    )
    reward = Reward(load(other))
    assert [reward.score(text).value for text in ('{"a": 1}', "{}", "none")] == [1.0, PARSES, 0.0]


def test_it_is_a_scorer_found_by_name_and_pinned_to_a_digest(folder: Path) -> None:
    scorer = SCORERS.load("policy").open(folder, content_digest(folder))
    assert scorer(["p", "p"], ["fine", [{"role": "assistant", "content": "key-1234"}]], extra=1) == [1.0, 0.5]
    assert scorer.origin == {
        "scorer": "policy:small:1", "bundle": content_digest(folder), "rules": ["bird", "key", "long"],
        "not_scored": ["own"],
    }  # fmt: skip
    with pytest.raises(Tampered, match="is not the bundle"):
        Reward.open(folder, "sha256:0")


def test_a_child_process_scores_the_same_and_refuses_other_rules(reward: Reward, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "reward.pickle"
    kept.write_bytes(pickle.dumps(reward))
    code = f"import pickle; print(pickle.load(open({str(kept)!r}, 'rb'))(['p'], ['key-1234 nightjar key-1']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[0.0]", 0), done.stderr
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    pinned = Reward(load(moved))
    data = pickle.dumps(pinned)
    (moved / "bundle.yaml").write_text(RULES.replace("nightjar", "magpie"))
    with pytest.raises(Tampered):
        pickle.loads(data)
