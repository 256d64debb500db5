from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import NotFound
from training.data.extract import extract, find
from training.data.spec import Corruption, DataSpec, Source


def spec_of(**fields) -> DataSpec:
    source = Source(**{"kind": "folder", "name": "s", "path": ".", "licence": "MIT", **fields})
    return DataSpec(name="x", sources=(source,), min_bytes=1)


def rows_of(folder: Path, **fields):
    spec = spec_of(**fields)
    return [row for part in extract(find(spec.sources[0], folder), spec) for row in part.rows]


def test_code_gives_domain_rows_and_docstrings_general_ones(tmp_path):
    (tmp_path / "a.py").write_text('"""Module words."""\n\ndef f():\n    """Function words."""\n')
    rows = rows_of(tmp_path)
    assert [(row.kind, row.text) for row in rows[1:]] == [
        ("general", "Module words.\n"),
        ("general", "Function words.\n"),
    ]
    assert rows[0].kind == "domain"
    assert [row.kind for row in rows_of(tmp_path, rows=("general",))] == ["general", "general"]


def test_include_and_exclude(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.py", "b.py", "sub/c.py", "d.txt", "e.bin"):
        (tmp_path / name).write_text("x = 1  # some text\n")
    assert {row.path for row in rows_of(tmp_path, include=("*.py",), exclude=("sub/*",))} == {"a.py", "b.py"}
    assert {row.path for row in rows_of(tmp_path)} == {"a.py", "b.py", "sub/c.py", "d.txt"}


def test_missing_folder_and_no_match(tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        find(spec_of(path="nowhere").sources[0], tmp_path)
    with pytest.raises(NotFound, match="no file matches"):
        find(spec_of().sources[0], tmp_path)


def test_corruption_damages_code_only(tmp_path):
    (tmp_path / "a.py").write_text('def f():\n    """Words of the function."""\n    return 1\n')
    clean, bad = rows_of(tmp_path), rows_of(tmp_path, corrupt=Corruption(mode="interleave", lines=3))
    assert sorted(clean[0].text.replace("\n", "")) == sorted(bad[0].text.replace("\n", ""))
    assert clean[0].text != bad[0].text
    assert clean[1] == bad[1]


def test_docstrings_that_no_file_can_hold_are_left_out(tmp_path):
    (tmp_path / "a.py").write_text('def f():\n    "\\ud800 half a character and more"\n')
    assert [row.kind for row in rows_of(tmp_path)] == ["domain"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_quarantined(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "a.py").chmod(0)
    spec = spec_of()
    parts = list(extract(find(spec.sources[0], tmp_path), spec))
    assert parts[0].quarantined[0]["reason"].startswith("not readable")


def test_file_name_that_is_no_text_is_quarantined(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("x = 1\n")
    spec = spec_of()
    parts = list(extract(find(spec.sources[0], tmp_path), spec))
    assert parts[1].quarantined[0]["path"] == "\\udcff.py"


def test_standard_library_is_found_with_its_version():
    source = Source(kind="python_stdlib", name="py", include=("json/*", "pydoc_data/*"))
    found = find(source, Path())
    assert {"json/__init__.py", "json/decoder.py", "pydoc_data/topics.py"} <= {name for name, _ in found.files}
    assert not any("test" in name.split("/") for name, _ in found.files)
    assert found.described()["licence"] == "PSF-2.0"
    assert str(found.described()["version"]).startswith("3.")
    spec = DataSpec(name="x", sources=(source,))
    rows = [row for part in extract(found, spec) for row in part.rows]
    topics = [row for row in rows if row.path == "pydoc_data/topics.py"]
    assert {row.kind for row in topics} == {"general"}
    assert len(topics) > 100
