"""`hallmark drift`: exit codes, re-certifications, canaries and what they cost, from the command line."""

import json

import numpy as np
import pytest

from governance import approvals, promotion
from registry.attestation import verify_release
from registry.errors import Refused
from tests.evals.drift.logged import decisions
from tests.stubs.openai_server import FakeEndpoint, said


@pytest.fixture
def served(ws, passed):
    candidate = passed(b"a")
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, "prod")
    return candidate


@pytest.fixture
def canaries(tmp_path):
    """Options that ask two canaries; the key is in a file."""
    (tmp_path / "asked.jsonl").write_text('{"id": "a", "messages": [{"role": "user", "content": "hi"}]}\n'
                                          '{"id": "b", "messages": [{"role": "user", "content": "ho"}]}\n')  # fmt: skip
    (tmp_path / "key").write_text("hk_1_2\n")
    return ["--canaries", str(tmp_path / "asked.jsonl"), "--key-file", str(tmp_path / "key"), "--endpoint"]


def log(ws, **after):
    rng, common = np.random.default_rng(0), {"certificate": ws.release("prod").certificate}
    ws.journal.append([*decisions(rng, 0, 100, **common), *decisions(rng, 100, 100, **common, **after)])


def test_too_little_quiet_and_drift_have_their_exit_codes(ws, served, hallmark):
    assert hallmark("drift", "check", "prod")[0] == 3
    log(ws)
    assert hallmark("drift", "check", "prod")[0] == 0
    assert hallmark("drift", "list") == (0, "\n", "")
    log(ws, blocked=0.6)
    code, out, _ = hallmark("drift", "check", "prod", "--cumulative")
    assert code == 1
    assert "cause not separated" in out
    assert "ever see such a check" in out
    code, out, _ = hallmark("drift", "check", "prod", "--json")
    document = json.loads(out)
    assert (code, document["verdict"], document["recertification"]["alias"]) == (1, "drift", "prod")
    code, out, _ = hallmark("drift", "list", "prod", "--json")
    assert (code, len(json.loads(out))) == (0, 1)


def test_an_alias_that_was_never_promoted_is_an_error(hallmark):
    code, out, err = hallmark("drift", "check", "nobody")
    assert (code, out) == (2, "")
    assert "unknown alias" in err


def test_expire_revokes_what_was_not_recertified(ws, served, hallmark):
    log(ws, blocked=0.6)
    assert hallmark("drift", "check", "prod", "--expire", "30")[0] == 1
    verify_release(ws, "prod")
    code, out, _ = hallmark("drift", "check", "prod", "--expire", "0")
    assert code == 1
    assert "not re-certified in time" in out
    with pytest.raises(Refused, match="was not re-certified within 0 days"):
        verify_release(ws, "prod")


def test_canaries_tell_a_changed_model_from_changed_traffic(ws, served, hallmark, canaries):
    log(ws)
    with FakeEndpoint(lambda body, count: said("yes, " + body["messages"][0]["content"])) as same:
        code, out, _ = hallmark("drift", "check", "prod", *canaries, same.base_url)
        assert code == 0
        assert "first replay of this certificate" in out
        assert {(asked["temperature"], asked["seed"], asked["model"]) for asked in same.asked} == {(0, 7, "prod")}
        assert len(same.asked) == 6
        log(ws, blocked=0.6)
        code, out, _ = hallmark("drift", "check", "prod", *canaries, same.base_url)
        assert (code, "cause: traffic" in out) == (1, True)
    with FakeEndpoint(lambda body, count: said("no, " + body["messages"][0]["content"])) as other:
        code, out, _ = hallmark("drift", "check", "prod", *canaries, other.base_url, "--since", "2999-01-01")
        assert code == 1
        assert "cause: model" in out


def test_a_dry_run_asks_nothing(ws, served, hallmark, canaries):
    size = ws.store.size()
    code, out, _ = hallmark("drift", "check", "prod", *canaries, "http://127.0.0.1:9/v1", "--dry-run")
    assert (code, out) == (0, "would ask 6 requests of at most 288 tokens in all\n")
    assert ws.store.size() == size


def test_canaries_need_an_endpoint_and_a_key_that_is_there(ws, served, hallmark, canaries, tmp_path):
    code, _, err = hallmark("drift", "check", "prod", "--canaries", "built-in")
    assert (code, "need an endpoint" in err) == (2, True)
    code, _, err = hallmark("drift", "check", "prod", *canaries, "http://127.0.0.1:9/v1", "--key-file", "/nowhere")
    assert (code, "no file" in err) == (2, True)
    code, _, err = hallmark("drift", "check", "prod", *canaries, "http://127.0.0.1:9/v1")
    assert (code, "is the endpoint running?" in err) == (2, True)
