"""Journals of earlier releases: every one kept as a fixture reads today as it always did."""

import json
import shutil
from pathlib import Path

import pytest

from registry.artifacts import Artifacts
from registry.errors import HallmarkError
from registry.journal import Journal
from registry.segment import read_segment
from registry.settings import read
from registry.store import Store
from registry.upcast import CURRENT, upcast

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "journals"
RELEASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
WRITTEN_BY = {"0.1": 1, "0.2": 2}


def opened(release, tmp_path):
    root = tmp_path / release
    shutil.copytree(FIXTURES / release, root)
    journal = Journal(root / "journal", read(root, None).workspace_id)
    (root / "store").mkdir()
    return Store(root / "store", journal, Artifacts(root / "objects"))


def test_releases_are_kept():
    assert "0.1" in RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_a_journal_of_a_release_gives_the_rows_it_gave_then(release, tmp_path):
    store = opened(release, tmp_path)
    expected = json.loads((FIXTURES / release / "expected.json").read_text())
    for table, rows in expected.items():
        columns = ", ".join(rows[0])
        found = store.query(f"SELECT {columns} FROM {table} ORDER BY ALL")
        assert json.loads(json.dumps(found, default=bytes.hex)) == rows, table


@pytest.mark.parametrize("release", ["0.1", "0.2"])
def test_sample_rows_of_a_release_hold_defaults_in_later_columns(release, tmp_path):
    later = "slices, output, latency_ms, prompt_tokens, completion_tokens, scorer"
    found = opened(release, tmp_path).query(f"SELECT DISTINCT {later} FROM sample_result")
    assert [tuple(row.values()) for row in found] == [("", "", 0.0, 0, 0, "")]


@pytest.mark.parametrize("release", RELEASES)
def test_a_journal_of_a_release_takes_new_records(release, tmp_path):
    store = opened(release, tmp_path)
    before = store.size()
    event = store.journal.append([("count", "s", {}, "me")])[0]
    assert event.v == CURRENT
    assert store.size() == before + 1
    versions = {frame.event.v for path in store.journal.segments() for frame in read_segment(path)}
    assert versions == {WRITTEN_BY[release], CURRENT}
    assert store.rebuild() == before + 1


def test_a_body_passes_through_every_version_between():
    table = {
        ("alias.moved", 1): lambda body: {**body, "steps": [*body["steps"], 1]},
        ("alias.moved", 3): lambda body: {**body, "steps": [*body["steps"], 3]},
        ("other", 2): lambda body: {"steps": "not this kind"},
    }
    assert upcast("alias.moved", 1, {"steps": []}, table, 4) == {"steps": [1, 3]}
    assert upcast("alias.moved", 2, {"steps": []}, table, 4) == {"steps": [3]}
    assert upcast("alias.moved", 4, {"steps": []}, table, 4) == {"steps": []}


@pytest.mark.parametrize("version", [0, CURRENT + 1])
def test_a_version_that_this_release_does_not_know_is_refused(version):
    with pytest.raises(HallmarkError, match=f"version {version}") as caught:
        upcast("alias.moved", version, {})
    assert "release" in caught.value.hint
