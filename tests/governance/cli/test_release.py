"""`hallmark release`, `promote --expect`, `rollback --drill`, `approve --withdraw`: documents, words and exit codes."""

import json

import pytest

from governance import approvals, promotion


@pytest.fixture
def twice(ws, passed):
    made = [passed(b"a"), passed(b"b")]
    for candidate in made:
        approvals.approve(ws, candidate, reason="reviewed")
        promotion.promote(ws, candidate, "prod")
    return made


def test_nothing_promoted_yet(hallmark):
    assert hallmark("release", "list")[:2] == (0, "no alias was promoted yet\n")
    code, out, err = hallmark("release", "show", "prod")
    assert (code, out) == (2, "")
    assert "unknown alias `prod`" in err
    assert hallmark("release", "settle")[1] == "every pointer file is what the journal says\n"


def test_list_show_and_history(ws, twice, hallmark):
    code, out, _ = hallmark("rollback", "prod", "--reason", "refusals doubled")
    assert code == 0
    assert "alias prod now points at code" in out
    code, out, _ = hallmark("release", "list", "--json")
    (row,) = json.loads(out)
    assert (code, row["alias"], row["by"], row["reason"]) == (0, "prod", "operator", "refusals doubled")
    assert row["certificate"][7:19] in hallmark("release", "list")[1]
    code, out, _ = hallmark("release", "history", "prod")
    assert code == 0
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == ["promoted", "promoted", "refusals doubled"]
    assert hallmark("release", "show", "prod")[0] == 0
    assert hallmark("revoke", row["certificate"], "--reason", "found bad")[0] == 0
    code, out, _ = hallmark("release", "show", "prod")
    assert code == 1
    assert "found bad" in out


def test_a_drill_and_a_rollback_without_reason(ws, twice, hallmark):
    code, out, _ = hallmark("rollback", "prod", "--drill")
    assert code == 0
    assert out.startswith("rollback of prod to certificate ")
    promotion.revoke(ws, promotion.target_of(ws, "prod").id, reason="withdrawn")
    code, out, _ = hallmark("rollback", "prod", "--drill", "--json")
    assert (code, len(json.loads(out)["problems"])) == (1, 1)
    code, _, err = hallmark("rollback", "prod")
    assert (code, "needs a reason" in err) == (1, True)


def test_expect_and_withdraw(ws, twice, hallmark):
    code, _, err = hallmark("promote", twice[0].body["version"], "--to", "prod", "--expect", "none")
    assert code == 1
    assert "was moved by `operator`" in err
    now = ws.release("prod").certificate
    assert hallmark("promote", twice[0].body["version"], "--to", "prod", "--expect", now)[0] == 0
    code, out, _ = hallmark("approve", twice[1].body["version"], "--withdraw", "--reason", "second thoughts")
    assert (code, out.startswith("withdrew the approval of candidate")) == (0, True)
    code, _, err = hallmark("promote", twice[1].body["version"], "--to", "canary")
    assert (code, "0 of 1 approvals" in err) == (3, True)


def test_settle_mends_what_a_crash_cut_off(ws, twice, hallmark):
    ws.pointer("prod").unlink()
    assert hallmark("release", "settle")[1] == "mended prod\n"
    assert hallmark("verify", "prod")[0] == 0
