"""Private folders of endpoints: removed with them, or by the next one."""

from __future__ import annotations

from pathlib import Path

from policies.serving.scratch import LONGEST, claim_scratch, socket_folder


def test_what_a_killed_endpoint_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    with claim_scratch(tmp_path) as mine:
        left = tmp_path / "endpoint-left"
        (left / "weights").mkdir(parents=True)
        (left / "weights" / "a").write_text("x")
        with claim_scratch(tmp_path) as other:
            assert not left.exists()
            assert mine.exists()
            assert other != mine
            assert mine.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_socket_folder_is_private_and_short() -> None:
    with socket_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) <= LONGEST + len("/hallmark-12345678")
    assert not folder.exists()
