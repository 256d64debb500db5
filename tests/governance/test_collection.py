"""Collection: garbage goes, what anything names stays, and collectors and adds do not hurt each other."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance import collection, holds, retention
from governance.cli.app import run
from governance.cli.main import cli
from registry.errors import HallmarkError, Locked, Refused, SpecError
from registry.records import ModelVersion
from registry.workspace import Workspace

ROOT = Path(__file__).parents[2]


def folder_of(place, *contents):
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for number, data in enumerate(contents):
        (place / f"{number}.bin").write_bytes(data)
    return place


def sweep(ws, **more):
    """Collect with no grace, as if the adds of this process were another's and long done."""
    ws.artifacts.inflight.end()
    return collection.collect(ws, grace_h=0, **more)


def test_garbage_goes_and_what_is_registered_stays(ws, add_version, passed, tmp_path):
    candidate, version = passed(), add_version(b"b", name="other")
    lost = ws.artifacts.add_tree(folder_of(tmp_path / "lost", b"lost", bytes(range(256)) * 8))
    loose = ws.artifacts.add_bytes(b"loose")
    told = sweep(ws, dry_run=True)
    assert ws.artifacts.verify(lost.id) == []
    found = sweep(ws)
    assert (found.count, found.bytes, set(found.digests)) == (told.count, told.bytes, set(told.digests))
    assert {lost.id, loose} <= set(found.digests)
    for part in (candidate.body["weights"], candidate.body["bundle"], version.body["manifest"]):
        assert ws.artifacts.verify(part) == []
    event = ws.store.query("SELECT body FROM event WHERE kind = 'objects.collected'")
    assert json.loads(event[0]["body"])["count"] == found.count
    assert sweep(ws).count == 0
    assert ws.store.rebuild() > 0


def test_a_blob_that_two_folders_share_stays_for_the_one_that_is_registered(ws, add_version, model, tmp_path):
    shared = (model / "tokenizer.json").read_bytes()
    version = add_version()
    lost = ws.artifacts.add_tree(folder_of(tmp_path / "lost", shared, b"mine"))
    found = sweep(ws)
    assert lost.entries[0].blake3 not in found.digests
    assert lost.entries[1].blake3 in found.digests
    assert ws.artifacts.verify(version.body["manifest"]) == []


def test_what_is_young_and_what_an_add_in_flight_touched_is_spared(ws, tmp_path):
    loose = ws.artifacts.add_bytes(b"loose")
    assert sweep(ws, dry_run=True).count >= 1
    found = collection.collect(ws, grace_h=1)
    assert (found.count, found.kept_young > 0) == (0, True)
    other = Workspace.open(ws.root)
    for path in ws.artifacts.root.glob("??/*"):
        os.utime(path, (0, 0))
    assert other.artifacts.add_bytes(b"loose") == loose
    found = sweep(ws)
    assert loose not in found.digests
    assert other.artifacts.read_bytes(loose) == b"loose"
    other.artifacts.inflight.end()
    assert loose in sweep(ws).digests


def test_what_a_crash_left_is_collected(ws):
    stray = ws.artifacts.root / "tmp" / f"4194305-{'ab' * 8}"
    stray.write_bytes(b"half")
    dead = ws.artifacts.root / "tmp" / f"lease-4194305-{'ab' * 8}"
    dead.touch()
    os.utime(dead, (0, 0))
    assert sweep(ws, dry_run=True).strays == 1
    assert sweep(ws).strays == 1
    assert not stray.exists()
    assert not dead.exists()


CRASH = """
import os, sys
from pathlib import Path
from registry.artifacts import Artifacts
store = Artifacts(Path(sys.argv[1]))
store._keep = lambda *_: os._exit(9)
store.add_bytes(b"cut off")
"""


def test_an_add_that_dies_before_the_link_leaves_only_a_stray(ws):
    done = subprocess.run([sys.executable, "-P", "-c", CRASH, str(ws.artifacts.root)], check=False, env=environment())
    assert done.returncode == 9
    assert sweep(ws).strays == 1
    assert [path.name for path in (ws.artifacts.root / "tmp").iterdir() if path.name[0].isdigit()] == []


def test_held_bytes_stay_although_they_are_withdrawn(ws, add_version):
    version = add_version()
    retention.delete(ws, version.id, reason="asked back")
    hold = holds.place(ws, version.id, reason="matter")
    assert set(sweep(ws).digests).isdisjoint(blobs(ws, version))
    holds.lift(ws, hold.id, reason="closed")
    gone = sweep(ws).digests
    assert set(blobs(ws, version)) <= set(gone)
    assert version.body["manifest"] not in gone


def blobs(ws, version):
    return [entry.blake3 for entry in ws.artifacts.manifest(version.body["manifest"]).entries]


def test_a_hold_on_a_run_or_alias_target_covers_ancestry_and_evidence(ws, passed):
    candidate = passed()
    hold = holds.place(ws, candidate.id, reason="matter")
    under = holds.covered(ws)
    version = candidate.body["version"]
    assert {candidate.id, version, ws.assets("decision")[0].id, ws.assets("run")[0].id} <= set(under)
    with pytest.raises(Refused, match=hold.id):
        retention.delete(ws, version, reason="x")


def test_only_one_collects_and_only_an_operator(ws):
    with collection._alone(ws), pytest.raises(Locked, match="another collection"):
        sweep(ws)
    with pytest.raises(Refused, match="may not collect"):
        sweep(ws, actor="trainer")
    with pytest.raises(SpecError, match="negative"):
        collection.collect(ws, grace_h=-1)


def test_a_forged_tombstone_stops_the_collection(ws, add_version):
    version = add_version()
    body = {"kind": "version", "manifest": version.body["manifest"], "reason": "forged"}
    ws.journal.append([("asset.tombstoned", version.id, body, "operator")])
    with pytest.raises(HallmarkError, match="no signature"):
        sweep(ws)
    assert ws.artifacts.verify(version.body["manifest"]) == []


def test_the_commands(ws, add_version, capsys):
    add_version()
    ws.artifacts.add_bytes(b"loose")
    ws.artifacts.inflight.end()
    at = ["--workspace", str(ws.root)]
    assert run(cli, ["store", "collect", "--dry-run", "--json", "--older-than", "0", *at]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["count"] >= 1
    assert run(cli, ["store", "stats", "--json", *at]) == 0
    before = json.loads(capsys.readouterr().out)
    assert run(cli, ["store", "collect", "--older-than", "0", *at]) == 0
    assert "deleted" in capsys.readouterr().out
    assert run(cli, ["store", "stats", "--json", *at]) == 0
    after = json.loads(capsys.readouterr().out)
    assert before["objects"] + before["manifests"] - after["objects"] - after["manifests"] == told["count"]
    assert before["object_bytes"] - after["object_bytes"] == told["bytes"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "register", "delete", "hold", "lift", "collect"]), st.integers(0, 3)), max_size=14
)


class World:
    """A workspace and what must be true of it."""

    def __init__(self, root, scratch):
        self.ws, self.scratch = Workspace.open(root), scratch
        self.live, self.held, self.gone = {}, {}, set()

    def add(self, number):
        return self.ws.artifacts.add_tree(folder_of(self.scratch / "in", b"shared", b"%d" % number))

    def register(self, number):
        record = ModelVersion(f"v{number}", self.add(number).id, None, None, [], "X", 1, {})
        if record.id not in self.gone:
            self.live[number] = self.ws.register(record, actor="trainer", name=record.name)

    def collect(self, number):
        sweep(self.ws)

    def hold(self, number):
        if number in self.live and number not in self.held:
            self.held[number] = holds.place(self.ws, self.live[number].id, reason="m")

    def lift(self, number):
        if number in self.held:
            holds.lift(self.ws, self.held.pop(number).id, reason="m")

    def delete(self, number):
        if number in self.held:
            with pytest.raises(Refused, match="hold"):
                retention.delete(self.ws, self.live[number].id, reason="r")
        elif number in self.live:
            self.gone.update(retention.delete(self.ws, self.live.pop(number).id, reason="r"))

    def check(self):
        for asset in self.live.values():
            assert self.ws.artifacts.verify(asset.body["manifest"], thorough=True) == []
        for ident in self.gone:
            manifest = self.ws.resolve(ident, "version").body["manifest"]
            assert self.ws.artifacts.verify(manifest) == ["withdrawn: r"]


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_everything_live_verifies(fresh, steps):
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(fresh, Path(scratch) / "ws")
        world = World(Path(scratch) / "ws", Path(scratch))
        for what, number in [*steps, ("collect", 0)]:
            getattr(world, what)(number)
        world.check()
        world.ws.close()


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


ADDER = """
import random, sys, time
from pathlib import Path
from registry.records import ModelVersion
from registry.workspace import Workspace
root, scratch, me = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for turn in range(10):
    ws = Workspace.open(root)  # a process of its own, as far as the store can tell: its lease ends with the object
    folder = scratch / f"{me}-{turn}"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(b"%d" % random.randrange(12) * 500)
    manifest = ws.artifacts.add_tree(folder)
    time.sleep(random.random() * 0.8)  # long enough for a whole collection, which must spare what nothing names yet
    if random.random() < 0.6:
        record = ModelVersion(f"v{me}-{turn}", manifest.id, None, None, [], "X", 1, {})
        print(ws.register(record, actor="trainer", name=record.name).body["manifest"], flush=True)
    ws.close()
    ws.artifacts.inflight.end()
"""
COLLECTOR = """
import sys
from pathlib import Path
from governance import collection
from registry.errors import Locked
from registry.workspace import Workspace
ws, done = Workspace.open(Path(sys.argv[1])), 0
while not (Path(sys.argv[2]) / "stop").exists():
    try:
        done += collection.collect(ws, grace_h=0).count
        (Path(sys.argv[2]) / "ready").touch()
    except Locked:
        pass
print(done)
"""


@pytest.mark.slow
def test_collectors_and_adders_at_once_lose_nothing_that_is_named(ws, tmp_path):
    """Adders dedupe against objects that the collectors are about to delete, with no grace period at all."""

    def start(code, *arguments):
        command = [sys.executable, "-P", "-c", code, str(ws.root), str(tmp_path), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    collectors = [start(COLLECTOR) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    adders = [start(ADDER, str(number)) for number in range(2)]
    named = []
    for adder in adders:
        out, err = adder.communicate(timeout=200)
        assert adder.returncode == 0, err
        named += out.split()
    (tmp_path / "stop").touch()
    swept = 0
    for collector in collectors:
        out, err = collector.communicate(timeout=100)
        assert collector.returncode == 0, err
        swept += int(out)
    assert named
    assert swept > 0
    assert [ws.artifacts.verify(manifest) for manifest in named if ws.artifacts.verify(manifest)] == []
    candidates_left = {item.digest for item in collection.stored(ws) if item.digest.startswith("sha256:")}
    assert set(named) <= candidates_left
