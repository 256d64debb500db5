"""Artifacts: the same bytes once, read back whole or not at all."""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts import Artifacts, remove_tree, replace_file
from registry.errors import NotFound, SpecError, Tampered


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
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1
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
