"""Artifacts: the same bytes once, read back whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts import Artifacts, remove_tree, replace_file
from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered
from registry.records import canonical, plain

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def store(tmp_path):
    artifacts = Artifacts(tmp_path / "objects")
    artifacts.create()
    return artifacts


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (path / "sub" / "config.json").write_text("{}")
    return path


def test_bytes_read_back_and_are_stored_once(store):
    digest = store.add_bytes(b"hello")
    assert store.add_bytes(b"hello") == digest
    assert store.read_bytes(digest) == b"hello"
    assert len([path for path in store.root.glob("??/*") if path.is_file()]) == 1
    assert store.path(digest).stat().st_mode & 0o777 == 0o444


def test_a_tree_has_a_manifest_with_both_digests(store, folder):
    manifest = store.add_tree(folder)
    entry = manifest.entry("model.safetensors")
    assert entry.sha256 == "sha256:" + hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert [item.path for item in manifest.entries] == ["model.safetensors", "sub/config.json"]
    assert store.manifest(manifest.id) == manifest
    assert store.add_tree(folder).id == manifest.id


def test_checkout_is_a_private_read_only_copy(store, folder, tmp_path):
    manifest = store.add_tree(folder)
    copy = store.checkout(manifest.id, tmp_path / "copy")
    assert (copy / "sub/config.json").read_text() == "{}"
    assert (copy / "model.safetensors").stat().st_mode & 0o222 == 0
    assert copy.stat().st_mode & 0o077 == 0
    assert (copy / "model.safetensors").stat().st_ino != store.path(manifest.entries[0].blake3).stat().st_ino


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 5119), flip=st.integers(1, 255))
def test_one_flipped_byte_is_found_and_named(store, folder, tmp_path, place, flip):
    manifest = store.add_tree(folder)
    path = store.path(manifest.entry("model.safetensors").blake3)
    original = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(original[:place] + bytes([original[place] ^ flip]) + original[place + 1 :])
    try:
        assert store.verify(manifest.id) == ["`model.safetensors` was altered: its bytes do not match the manifest"]
        with pytest.raises(Tampered, match="model.safetensors"):
            store.checkout(manifest.id, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    finally:
        path.write_bytes(original)
    assert store.verify(manifest.id) == []


def test_a_missing_file_is_named(store, folder):
    manifest = store.add_tree(folder)
    store.path(manifest.entry("sub/config.json").blake3).unlink()
    assert store.verify(manifest.id) == ["`sub/config.json` is missing from the store"]


def test_an_altered_manifest_is_refused(store, folder):
    manifest = store.add_tree(folder)
    path = store.root / "manifests" / f"{manifest.id[7:]}.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"sub/config.json", b"sub/confih.json"))
    with pytest.raises(Tampered, match="does not hash to its id"):
        store.manifest(manifest.id)


def test_links_empty_folders_and_bad_digests_are_refused(store, folder, tmp_path):
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(SpecError, match="link or special file"):
        store.add_tree(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="holds no file"):
        store.add_tree(tmp_path / "empty")
    with pytest.raises(NotFound, match="no folder"):
        store.add_tree(tmp_path / "absent")
    for bad in ("sha256:" + "0" * 64, "blake3:../../etc/passwd", "blake3:" + "z/" * 32):
        with pytest.raises(NotFound):
            store.read_bytes(bad)


def test_replace_file_leaves_no_temporary_file(tmp_path):
    replace_file(tmp_path / "a" / "pointer.json", b"1")
    replace_file(tmp_path / "a" / "pointer.json", b"2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pointer.json"]
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


# ---- adding: what is refused, what is mended, what a crash or a full disk leaves ----------------------------------


def temporary_files(store):
    return [path.name for path in (store.root / "tmp").iterdir() if not path.name.startswith(("lease-", "gate"))]


NAMES = [("A.txt", "a.txt"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE"), ("a\\b",), ("line\nbreak",)]


@pytest.mark.parametrize("names", NAMES)
def test_names_that_some_file_system_cannot_keep_apart_are_refused(store, tmp_path, names):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    with pytest.raises(SpecError, match="odd"):
        store.add_tree(folder)
    assert list((store.root / "manifests").iterdir()) == []


def test_a_name_that_is_no_text_is_refused(store, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    os.close(os.open(os.fsencode(folder) + b"/\xff.bin", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(SpecError, match="no text"):
        store.add_tree(folder)


def test_pipes_and_links_to_folders_are_refused(store, folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(SpecError, match="pipe"):
        store.add_tree(folder)
    (folder / "pipe").unlink()
    (folder / "way").symlink_to("/etc")
    with pytest.raises(SpecError, match="way"):
        store.add_tree(folder)
    with pytest.raises(SpecError, match="link"):
        store.add_file(folder / "way", "way")


@pytest.mark.parametrize("damage", ["bytes", "short", "link", "pipe"])
def test_adding_again_mends_a_damaged_object(store, folder, tmp_path, damage):
    manifest = store.add_tree(folder)
    path = store.path(manifest.entry("model.safetensors").blake3)
    path.unlink()
    if damage == "link":
        path.symlink_to("/etc/hostname")
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(5120) if damage == "bytes" else b"x")
    assert len(store.verify(manifest.id)) == 1
    assert "model.safetensors" in store.verify(manifest.id)[0]
    with pytest.raises(Tampered, match="model.safetensors"):
        store.checkout(manifest.id, tmp_path / "copy")
    assert store.add_tree(folder) == manifest
    assert store.verify(manifest.id, thorough=True) == []
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_folder_in_the_place_of_an_object_is_named(store, folder):
    manifest = store.add_tree(folder)
    path = store.path(manifest.entry("sub/config.json").blake3)
    path.unlink()
    path.mkdir()
    assert store.verify(manifest.id) == ["`sub/config.json` is not a plain file"]
    with pytest.raises(Tampered, match="not a plain file"):
        store.read_bytes(manifest.entry("sub/config.json").blake3)


FULL = """
import resource, signal, sys
from pathlib import Path
from registry.artifacts import Artifacts
from registry.errors import HallmarkError
store = Artifacts(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.add_tree(Path(sys.argv[2]))
except HallmarkError as error:
    print(error.message, "|", error.hint)
"""


def test_a_disk_that_takes_no_more_is_told_and_nothing_half_written_stays(store, folder):
    (folder / "large.bin").write_bytes(os.urandom(300_000))
    done = subprocess.run([sys.executable, "-P", "-c", FULL, str(store.root), str(folder)], capture_output=True,
                          text=True, check=True, env={**os.environ, "PYTHONPATH": ROOT})  # fmt: skip
    assert "cannot store `large.bin`: file too large | free some space; nothing half-written was kept" in done.stdout
    assert temporary_files(store) == []
    assert list((store.root / "manifests").iterdir()) == []


def test_a_store_that_cannot_be_written_is_told(folder, tmp_path):
    with pytest.raises(HallmarkError, match="cannot store `model.safetensors`") as caught:
        Artifacts(tmp_path / "absent").add_tree(folder)
    assert "check who owns" in caught.value.hint


# ---- a manifest somebody else wrote ------------------------------------------------------------------------------


def plant(store, entries):
    data = canonical({"entries": entries})
    name = hashlib.sha256(data).hexdigest()
    (store.root / "manifests" / f"{name}.json").write_bytes(data)
    return f"sha256:{name}"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "a\0b", "", ".", "a//b", "a/", "a\nb"])
def test_a_hostile_path_is_refused(store, folder, tmp_path, path):
    entry = plain(store.add_tree(folder).entries[0])
    ident = plant(store, [{**entry, "path": path}])
    for attempt in (store.manifest, store.verify, lambda ident: store.checkout(ident, tmp_path / "out" / "copy")):
        with pytest.raises(Tampered, match="manifest"):
            attempt(ident)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("paths", [("a", "A"), ("a", "a/b"), ("x", "x")])
def test_paths_that_clash_are_refused(store, folder, tmp_path, paths):
    entry = plain(store.add_tree(folder).entries[0])
    ident = plant(store, [{**entry, "path": path} for path in paths])
    with pytest.raises(Tampered, match="manifest"):
        store.checkout(ident, tmp_path / "copy")


@pytest.mark.parametrize("change", [{"mode": 0o4755}, {"size": -1}, {"size": "5"}, {"media_type": 7}, {"blake3": "x"},
                                    {"sha256": None}, {"more": 1}])  # fmt: skip
def test_fields_that_no_store_writes_are_refused(store, folder, change):
    entry = plain(store.add_tree(folder).entries[0])
    with pytest.raises(Tampered, match="manifest"):
        store.manifest(plant(store, [{**entry, **change}]))


def test_a_wrong_sha256_beside_the_right_blake3_is_found_when_thorough(store, folder):
    entry = plain(store.add_tree(folder).entries[0])
    ident = plant(store, [{**entry, "sha256": "sha256:" + "0" * 64}])
    assert store.verify(ident) == []
    assert store.verify(ident, thorough=True) == [
        "`model.safetensors` was altered: its bytes do not match the manifest"
    ]


# ---- a folder that was checked out -------------------------------------------------------------------------------


def test_a_checked_out_folder_is_compared_with_its_manifest(store, folder, tmp_path):
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    manifest = store.add_tree(folder)
    copy = store.checkout(manifest.id, tmp_path / "copy")
    assert store.verify_folder(manifest.id, copy, thorough=True) == []
    (copy / "extra.py").write_text("x")
    (copy / "link").symlink_to("run.sh")
    (copy / "run.sh").chmod(0o644)
    (copy / "sub/config.json").unlink()
    (copy / "model.safetensors").chmod(0o644)
    (copy / "model.safetensors").write_bytes(bytes(5120))
    assert store.verify_folder(manifest.id, copy) == [
        "`extra.py` is not in the manifest",
        "`link` is not in the manifest",
        "`model.safetensors` was altered: its bytes do not match the manifest",
        "`run.sh` has another mode than the manifest records",
        "`sub/config.json` is missing from the folder",
    ]


def test_a_withdrawn_artifact_says_so(store, folder, tmp_path):
    manifest = store.add_tree(folder)
    store.manifest_path(manifest.id).with_suffix(".withdrawn").write_text(json.dumps({"reason": "the source asked"}))
    assert store.verify(manifest.id) == ["withdrawn: the source asked"]
    with pytest.raises(Refused, match="withdrawn: the source asked"):
        store.checkout(manifest.id, tmp_path / "copy")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e.json", "f.safetensors"]), st.binary(max_size=300),
                             min_size=1))  # fmt: skip
def test_any_folder_comes_back_as_it_was(store, tmp_path, files):
    folder, back = tmp_path / "in", tmp_path / "out"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    try:
        manifest = store.add_tree(folder)
        store.checkout(manifest.id, back)
        assert {
            path.relative_to(back).as_posix(): path.read_bytes() for path in back.rglob("*") if path.is_file()
        } == files
        assert store.add_tree(back).id == manifest.id
    finally:
        remove_tree(folder)
        remove_tree(back)
