"""Files: copied whole, replaced whole, and no path that leaves its folder."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import files
from registry.errors import NotFound, SpecError, Tampered
from registry.manifests import hex_of


def test_a_copy_is_whole_whatever_the_size(tmp_path):
    for size in (0, 1, files.CHUNK + 7):
        data = os.urandom(size)
        (tmp_path / "in").write_bytes(data)
        source, sink = os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
        files.copy(source, sink)
        os.close(source)
        os.close(sink)
        assert (tmp_path / "out").read_bytes() == data
        (tmp_path / "out").unlink()


def test_a_file_the_kernel_makes_up_is_copied_too(tmp_path):
    source, sink = os.open("/proc/self/status", os.O_RDONLY), os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    files.copy(source, sink)
    os.close(source)
    os.close(sink)
    assert b"Pid:" in (tmp_path / "out").read_bytes()


def test_digests_are_those_of_the_libraries(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    descriptor = files.open_plain(tmp_path / "x", "x")
    assert files.digest(descriptor, "sha256") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3,
    )  # fmt: skip
    assert files.digest(descriptor)[0] == ("blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85")
    os.close(descriptor)


def test_only_plain_files_are_opened(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(Tampered):
            files.open_plain(tmp_path / name, name)
    with pytest.raises(NotFound):
        files.open_plain(tmp_path / "none", "none")
    with pytest.raises(SpecError), files.opened(tmp_path / "link"):
        pass


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OSError, match="full"):
        files.replace_file(tmp_path / "full", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@given(st.lists(st.text(alphabet="ab./\\\0\u00e9\u0301A", max_size=6), max_size=4))
def test_paths_without_a_problem_stay_inside_and_apart(names):
    if next(files.path_problems(names), None):
        return
    for name in names:
        assert os.path.normpath("/store/" + name) == "/store/" + name
    assert len({name.casefold() for name in names}) == len(names)


@pytest.mark.parametrize("name", ["", "sha256:", "blake3:" + "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64])
def test_what_is_no_digest_has_no_digits(name):
    assert hex_of(name, "sha256") is None
