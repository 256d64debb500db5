"""Promotion where the disk is full or read-only: a clear error, nothing lost, and it works when it is mended."""

import shutil
import subprocess

import pytest

from governance import approvals, promotion
from governance.verification import verify
from registry import aliases
from registry.errors import HallmarkError
from registry.workspace import Workspace


@pytest.fixture
def small(ws, passed, tmp_path):
    """The workspace, with a candidate that waits for its promotion, on a file system of 24 MiB of its own."""
    candidate = passed()
    approvals.approve(ws, candidate, reason="reviewed")
    ws.store.sync()
    ws.close()
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system of its own: {made.stderr.strip()}")
    try:
        yield shutil.copytree(ws.root, place / "ws"), candidate
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def fill(root, left):
    """Leave `left` bytes of room."""
    free = shutil.disk_usage(root).free
    with (root.parent / "filler").open("wb") as file:
        file.write(b"\0" * max(0, free - left))


@pytest.mark.parametrize("left", [0, 4 << 10, 16 << 10, 64 << 10, 512 << 10])
def test_a_full_disk_loses_nothing_and_leaves_no_alias_half_moved(small, left):
    root, candidate = small
    ws = Workspace.open(root)
    fill(root, left)
    try:
        promotion.promote(ws, candidate, "prod")
    except (HallmarkError, OSError) as error:
        assert "space" in str(error).lower()  # noqa: PT017 (it may also succeed)
    ws.close()
    (root.parent / "filler").unlink()
    again = Workspace.open(root)
    assert verify(again, "log").problems == ()
    assert promotion.promote(again, candidate, "prod").release == aliases.head(again, "prod").release
    assert verify(again, "prod").exit_code == 0
    moves = again.store.query("SELECT count(*) AS n FROM alias_history")[0]["n"]
    assert moves == 1
    again.close()


def test_a_store_that_cannot_be_written_is_told_and_unchanged(small):
    root, candidate = small
    place = str(root.parent)
    made = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot be made read-only: {made.stderr.strip()}")
    ws = Workspace.open(root)
    with pytest.raises((HallmarkError, OSError), match=r"(?i)read-only|cannot write"):
        promotion.promote(ws, candidate, "prod")
    ws.close()
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    again = Workspace.open(root)
    assert aliases.heads(again) == {}
    assert promotion.promote(again, candidate, "prod").moved
    again.close()
