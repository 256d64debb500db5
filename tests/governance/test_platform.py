"""The platform policy: installed under the root key, changed by a majority of operators, by nobody else."""

import shutil
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance import platform, roles
from governance.permissions import FORBIDDEN, ROLE_OF, examine, table
from governance.platform import ACTIVATED, FILE, VOTE_TYPE, VOTED
from governance.setup import add_key, rotate_key
from registry import principals
from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered
from registry.identity import sign_envelope
from registry.records import canonical, sha256
from registry.workspace import Workspace

OLD = Path(__file__).parents[1] / "fixtures"
SHIPPED = platform.shipped(FILE)
NO_AGENTS = SHIPPED.replace('["trainer", "agent"]', '["trainer"]')
OPEN = SHIPPED.replace('principal.role == "approver"', '["approver", "trainer"].contains(principal.role)')


@pytest.fixture
def three(ws):
    """Three operators: two of them are a majority."""
    add_key(ws, "second", "operator", signer="operator", algorithm="p256")
    add_key(ws, "third", "operator", signer="operator")
    return ws


def test_one_operator_alone_is_a_majority(ws):
    found = platform.vote(ws, NO_AGENTS, reason="no agents here", actor="operator")
    assert (found.activated, found.voters, found.needed) == (True, ("operator",), 1)
    assert (ws.root / FILE).read_text() == NO_AGENTS
    assert platform.platform_policies(ws).text == NO_AGENTS
    with pytest.raises(Refused, match="governs already"):
        platform.vote(ws, NO_AGENTS, reason="again", actor="operator")
    assert platform.text_of(ws, sha256(SHIPPED.encode())) == SHIPPED


def test_two_of_three_operators_change_it(three):
    first = platform.vote(three, NO_AGENTS, reason="a", actor="operator")
    assert platform.vote(three, NO_AGENTS, reason="twice", actor="operator") == first
    assert (first.activated, first.voters, first.needed) == (False, ("operator",), 2)
    assert platform.platform_policies(three).text == SHIPPED
    assert platform.pending(three) == [first]
    assert platform.text_of(three, first.digest) == NO_AGENTS
    second = platform.vote(three, NO_AGENTS, reason="b", actor="second")
    assert (second.activated, second.voters) == (True, ("operator", "second"))
    assert platform.platform_policies(three).text == NO_AGENTS
    assert platform.pending(three) == []
    with pytest.raises(NotFound, match="no platform policy"):
        platform.text_of(three, "sha256:00")


def test_votes_for_different_texts_do_not_add_up(three):
    platform.vote(three, NO_AGENTS, reason="a", actor="operator")
    assert not platform.vote(three, NO_AGENTS + "\n", reason="b", actor="second").activated


def test_a_revoked_or_retired_operators_vote_does_not_count(three):
    platform.vote(three, NO_AGENTS, reason="a", actor="second")
    platform.vote(three, NO_AGENTS + "\n", reason="a", actor="third")
    rotate_key(three, "third", signer="operator")
    assert not platform.vote(three, NO_AGENTS + "\n", reason="b", actor="operator").activated
    principals.revoke(three, "second", reason="left", signer="operator")
    last = platform.vote(three, NO_AGENTS, reason="b", actor="operator")
    assert (last.voters, last.needed, last.activated) == (("operator",), 2, False)


def test_only_operators_vote(ws):
    for name in ("trainer", "policy-author", "auditor"):
        with pytest.raises(Refused, match="may not change platform"):
            roles.voter(ws, name)
        with pytest.raises(Refused, match="holds no operator's key"):
            platform.vote(ws, NO_AGENTS, reason="x", actor=name)


def test_an_activation_written_by_hand_opens_nothing(ws):
    (ws.root / FILE).write_text(OPEN)
    body = {"digest": sha256(OPEN.encode()), "previous": sha256(SHIPPED.encode())}
    ws.record(ACTIVATED, FILE, body, actor="operator")
    with pytest.raises(Tampered, match="event .* is malformed"):
        roles.require(ws, "approve", "x", "trainer")


@pytest.mark.parametrize("signer", ["trainer", "policy-author"])
def test_an_activation_signed_by_others_opens_nothing(ws, signer):
    activate(ws, OPEN, [envelope_of(ws, OPEN, signer)])
    with pytest.raises(Tampered, match="was not voted for: no signature by a key"):
        roles.require(ws, "approve", "x", "trainer")


def test_an_activation_with_too_few_votes_opens_nothing(three):
    one = envelope_of(three, NO_AGENTS, "second")
    activate(three, NO_AGENTS, [one, one])
    with pytest.raises(Tampered, match="1 of 2 operators signed"):
        platform.platform_policies(three)


def test_votes_of_an_earlier_turn_do_not_count_again(ws):
    for text in (NO_AGENTS, SHIPPED):
        platform.vote(ws, text, reason="x", actor="operator")
    rows = ws.store.query(f"SELECT body FROM event WHERE kind = '{ACTIVATED}' ORDER BY seq")
    ws.record(ACTIVATED, FILE, orjson.loads(rows[1]["body"]), actor="operator")
    with pytest.raises(Tampered, match="another text or another moment"):
        platform.platform_policies(ws)


def test_a_vote_forged_into_the_journal_is_passed_by(three):
    digest = sha256(NO_AGENTS.encode())
    for envelope in ({}, envelope_of(three, NO_AGENTS, "trainer"), envelope_of(three, SHIPPED, "second")):
        three.record(VOTED, digest, {"digest": digest, "envelope": envelope}, actor="second")
    assert platform.vote(three, NO_AGENTS, reason="x", actor="operator").voters == ("operator",)


def test_the_first_activation_is_the_root_keys(ws):
    rows = ws.store.query("SELECT * FROM event WHERE kind LIKE 'principal.%' ORDER BY seq")
    known = principals.fold(ws, rows)
    claim = {"digest": sha256(OPEN.encode()), "previous": "", "turn": 0, "reason": "installation",
             "workspace": ws.settings.workspace_id, "at": "now"}  # fmt: skip
    envelopes = {
        name: sign_envelope(VOTE_TYPE, canonical(claim), ws.keys.load(name)) for name in ("operator", "trainer")
    }
    row = {**rows[-1], "seq": rows[-1]["seq"] + 1, "kind": ACTIVATED}
    for name, good in (("operator", True), ("trainer", False)):
        body = {"digest": claim["digest"], "previous": "", "blob": "b", "envelopes": [envelopes[name]]}
        if good:
            assert platform._follow(ws, platform.Activation(), {**row, "body": orjson.dumps(body)}, known).turn == 0
        else:
            with pytest.raises(Refused, match="no signature by a key"):
                platform._follow(ws, platform.Activation(), {**row, "body": orjson.dumps(body)}, known)


def test_a_change_killed_before_the_file_was_written_is_finished(ws):
    platform.vote(ws, NO_AGENTS, reason="x", actor="operator")
    (ws.root / FILE).write_text(SHIPPED)
    assert platform.platform_policies(ws).text == NO_AGENTS
    assert (ws.root / FILE).read_text() == NO_AGENTS
    (ws.root / FILE).unlink()
    with pytest.raises(Tampered, match="not the platform policy that was activated"):
        platform.platform_policies(ws)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(place=st.integers(0, 1_000_000), flip=st.integers(1, 127))
def test_no_altered_byte_of_an_activation_goes_unnoticed(activated, place, flip):
    ws, row, known, before, after = activated
    raw = bytearray(row["body"].encode())
    raw[place % len(raw)] ^= flip
    try:
        found = platform._follow(ws, before, {**row, "body": bytes(raw)}, known)
    except (HallmarkError, AttributeError, KeyError, TypeError, ValueError):
        return
    assert (found.digest, found.voters, found.turn) == (after.digest, after.voters, after.turn)


@pytest.fixture(scope="module")
def activated(fresh, tmp_path_factory):
    root = tmp_path_factory.mktemp("activated") / "ws"
    shutil.copytree(fresh, root)
    ws = Workspace.open(root)
    before = platform.standing(ws)[1]
    platform.vote(ws, NO_AGENTS, reason="x", actor="operator")
    known, after = platform.standing(ws)
    row = ws.store.query(f"SELECT * FROM event WHERE kind = '{ACTIVATED}' ORDER BY seq DESC LIMIT 1")[0]
    return ws, row, known, before, after


BROKEN = {
    "lets every trainer approve": OPEN,
    "lets every trainer promote": SHIPPED + 'permit (principal, action == Action::"promote", resource);',
    "lets `trainer` .trainer. decide": SHIPPED
    + 'permit (principal, action == Action::"decide", resource) when { principal.name == "trainer" };',
    "approve what they trained": SHIPPED.replace("forbid (principal", "permit (principal"),
    "operators unable to change platform": SHIPPED.replace('Action::"change-platform"', 'Action::"read"'),
    "operators unable to manage keys": SHIPPED.replace('Action::"manage-keys"', 'Action::"read"'),
    "nowhere|unrecognized|not found|attribute": SHIPPED.replace("principal.role", "principal.nowhere", 1),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_no_platform_policy_may_do(ws, why):
    with pytest.raises(Refused, match=f"no platform policy may do this: .*({why})"):
        platform.vote(ws, BROKEN[why], reason="x", actor="operator")
    assert platform.pending(ws) == []


def test_what_is_no_cedar_is_refused(ws):
    with pytest.raises(SpecError, match="not valid Cedar"):
        platform.vote(ws, "permit everything", reason="x", actor="operator")


def test_the_differences_are_shown_by_role_and_by_name(ws):
    known = ws.principals().values()
    found = examine(platform.parse(NO_AGENTS), platform.parse(SHIPPED), known)
    assert found.refusals == []
    assert found.changes == [f"- agent may no longer {verb}" for verb in ("build-data", "create-candidate", "train")]
    named = SHIPPED + 'permit (principal, action == Action::"collect", resource) when { principal.name == "auditor" };'
    assert examine(platform.parse(named), platform.parse(SHIPPED), known).changes == ["+ auditor (auditor) may collect"]
    assert examine(platform.parse(SHIPPED), platform.parse(SHIPPED), known).changes == []


def test_the_shipped_policy_keeps_makers_from_judging():
    found = table(platform.parse(SHIPPED))
    for role, verbs in FORBIDDEN.items():
        assert not found[("", role)] & verbs
    assert set().union(*found.values()) == set(ROLE_OF)


def test_a_workspace_of_release_0_1_is_changed_by_its_operator(tmp_path):
    shutil.copytree(OLD / "journals" / "0.1", tmp_path / "old")
    shutil.copy(OLD / "platform" / "0.1.cedar", tmp_path / "old" / FILE)
    for name in ("store", "releases", "work", "keys"):
        (tmp_path / "old" / name).mkdir(exist_ok=True)
    ws = Workspace.open(tmp_path / "old")
    _, active = platform.standing(ws)
    assert (active.turn, active.blob, active.voters) == (0, "", ("operator",))
    assert roles.require(ws, "train", "x", "trainer").name == "trainer"
    assert roles.voter(ws, "operator").name == "operator"
    with pytest.raises(Refused, match="may not change platform"):
        roles.voter(ws, "policy-author")


def envelope_of(ws, text, name):
    active = platform.standing(ws)[1]
    claim = {"digest": sha256(text.encode()), "previous": active.digest, "turn": active.turn + 1, "reason": "x",
             "workspace": ws.settings.workspace_id, "at": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return sign_envelope(VOTE_TYPE, canonical(claim), ws.keys.load(name))


def activate(ws, text, envelopes):
    """Write file and event as an intruder with the folder in hand would."""
    blob = ws.artifacts.add_bytes(text.encode())
    body = {"digest": sha256(text.encode()), "previous": platform.standing(ws)[1].digest, "blob": blob,
            "envelopes": envelopes}  # fmt: skip
    (ws.root / FILE).write_text(text)
    ws.record(ACTIVATED, FILE, body, actor="operator")
