"""Rollback drills: everything but the move, timed and recorded; and what is in production, with its history."""

import pytest

from governance import approvals, drills, promotion, releases
from registry import aliases
from registry.errors import NotFound, Refused, UnknownName


@pytest.fixture
def twice(ws, passed):
    """Two candidates that `prod` pointed at, one after the other."""
    made = [passed(b"a"), passed(b"b")]
    for candidate in made:
        approvals.approve(ws, candidate, reason="reviewed")
        promotion.promote(ws, candidate, "prod", reason=f"promoted {candidate.number}")
    return made


def drilled(ws):
    return ws.store.query(
        "SELECT actor, CAST(body->'$.works' AS BOOLEAN) AS works, body FROM event WHERE kind = 'rollback.drilled'"
    )


def test_a_drill_moves_nothing_and_says_how_long_it_took(ws, twice):
    before = aliases.head(ws, "prod")
    found = drills.drill(ws, "prod", reason="quarterly")
    assert (found.exit_code, found.version, found.problems) == (0, twice[0].body["version"], ())
    assert len(found.checked) == 3
    assert found.seconds > 0
    assert "works" in found.lines()[0]
    assert aliases.head(ws, "prod") == before
    assert [(row["actor"], row["works"]) for row in drilled(ws)] == [("operator", True)]


def test_a_drill_finds_what_would_stop_a_rollback(ws, twice):
    target = promotion.target_of(ws, "prod")
    promotion.revoke(ws, target.id, reason="data withdrawn")
    entry = ws.artifacts.manifest(twice[0].body["weights"]).entry("tokenizer.json")
    ws.artifacts.path(entry.blake3).unlink()
    found = drills.drill(ws, "prod")
    assert found.exit_code == 1
    assert "was revoked by `operator`" in found.problems[0]
    assert "tokenizer.json" in found.problems[1]
    assert "tokenizer.json" in found.problems[2]
    assert "would not work" in found.lines()[0]
    assert [row["works"] for row in drilled(ws)] == [False]


def test_a_drill_finds_a_folder_no_engine_loads(ws, twice, monkeypatch):
    from policies.engines import launch

    monkeypatch.setattr(launch.Engine, "version", lambda self: "transformers 0.0.1, torch 2")
    found = drills.drill(ws, "prod")
    assert [problem for problem in found.problems if "0.0.1" in problem]


def test_a_drill_needs_an_operator_and_something_to_go_back_to(ws, passed):
    with pytest.raises(NotFound, match="never promoted"):
        drills.drill(ws, "prod")
    with pytest.raises(Refused, match="may not rollback"):
        drills.drill(ws, "prod", actor="trainer")


def test_what_is_in_production_and_its_history(ws, twice):
    promotion.rollback(ws, "prod", reason="refusals doubled")
    (found,) = releases.standings(ws)
    assert (found.alias, found.version, found.reason) == ("prod", twice[0].body["version"], "refusals doubled")
    assert (found.by, found.problem) == ("operator", "")
    assert releases.standing(ws, "prod") == found
    moves = releases.history(ws, "prod")
    assert [move.reason for move in moves] == ["promoted 1", "promoted 2", "refusals doubled"]
    promotion.revoke(ws, found.certificate, reason="found bad")
    assert "found bad" in releases.standing(ws, "prod").problem
    for ask in (releases.standing, releases.history):
        with pytest.raises(UnknownName, match="unknown alias `prd`"):
            ask(ws, "prd")


def test_promote_only_if_it_points_where_expected(ws, twice, passed):
    third = passed(b"c")
    approvals.approve(ws, third, reason="reviewed")
    before = aliases.head(ws, "prod")
    for wrong in ("none", promotion.target_of(ws, "prod").id):
        with pytest.raises(Refused, match=r"was moved by `operator` on .* nothing was changed"):
            promotion.promote(ws, third, "prod", expect=wrong)
    assert aliases.head(ws, "prod") == before
    assert promotion.promote(ws, third, "prod", expect=before.release.certificate).moved
    assert promotion.promote(ws, third, "canary", expect="none").moved
    with pytest.raises(Refused, match="points nowhere"):
        promotion.promote(ws, third, "beta", expect=before.release.certificate)


def test_a_promotion_that_lost_issued_nothing(ws, twice, passed, monkeypatch):
    """Somebody else moves the alias while the bytes are being verified."""
    third, winner = passed(b"c"), promotion.target_of(ws, "prod")
    approvals.approve(ws, third, reason="reviewed")
    real = promotion.check_bytes

    def slow(workspace, candidate):
        real(workspace, candidate)
        monkeypatch.setattr(promotion, "check_bytes", real)
        promotion.rollback(workspace, "prod", reason="the other one was faster")

    monkeypatch.setattr(promotion, "check_bytes", slow)
    certificates = len(ws.assets("certificate"))
    with pytest.raises(Refused, match="the other one was faster"):
        promotion.promote(ws, third, "prod")
    assert aliases.head(ws, "prod").release.certificate == winner.id
    assert len(ws.assets("certificate")) == certificates


def test_each_move_is_followed_by_a_checkpoint_kept_elsewhere(ws, twice, tmp_path, monkeypatch, caplog):
    from registry import checkpoints

    monkeypatch.setitem(ws.settings.values, "checkpoint_publish", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    done = promotion.rollback(ws, "prod", reason="drill was fine")
    newest = checkpoints.newest(ws)
    moved = ws.store.query("SELECT max(seq) AS seq FROM event WHERE kind = 'alias.moved'")[0]["seq"]
    assert done.moved
    assert newest.size >= moved
    assert any(newest.note in path.read_text() for path in (tmp_path / "elsewhere").rglob("*") if path.is_file())
    (tmp_path / "file").touch()
    monkeypatch.setitem(ws.settings.values, "checkpoint_publish", str(tmp_path / "file" / "below"))
    again = promotion.promote(ws, twice[1], "prod")
    assert again.moved
    assert aliases.head(ws, "prod").release == again.release
    assert "its checkpoint was not signed and published" in caplog.text
