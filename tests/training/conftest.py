"""A small code base on disk and a workspace round it, shared by the tests of this room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
settings.register_profile("room", deadline=None)  # a busy machine is no failure: speed is measured in benchmarks
settings.load_profile("room")

VERBS = ("open", "close", "read", "write", "merge", "sort", "count", "parse", "draw", "send")
NOUNS = ("file", "graph", "table", "packet", "token", "image", "record", "window", "signal", "matrix")


def module(number: int) -> str:
    """Return the text of a module that differs from its neighbours in names, documentation and bodies."""
    verb, noun = VERBS[number % 10], NOUNS[number // 10 % 10]
    lines = [f'"""Tools to {verb} one {noun} after another, part {number} of the collection of this house."""', ""]
    for index in range(6):
        other = NOUNS[(number * 7 + index * 3) % 10]
        lines += [
            f"def {verb}_{noun}_{index}(first_{other}, second_{noun}={number * 31 + index}):",
            f'    """{verb.title()} the {noun} number {index} of {number} and the {other} beside it, then say so."""',
            f"    total_{other} = first_{other} + second_{noun} * {number + index}",
            f"    if total_{other} > {number * index + 17}:",
            f"        return [total_{other}, {number}, second_{noun}]",
            f"    return total_{other} - {index}",
            "",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def code_base(tmp_path: Path) -> Path:
    """Return a folder of sixty modules."""
    folder = tmp_path / "code"
    folder.mkdir()
    for number in range(60):
        (folder / f"m{number:02}.py").write_text(module(number))
    return folder


@pytest.fixture
def spec_file(code_base: Path) -> Path:
    """Return a data spec over the code base."""
    path = code_base.parent / "data.yaml"
    path.write_text(
        "name: house\n"
        "sources: [{kind: folder, name: house, path: code, licence: Apache-2.0}]\n"
        "holdout: 0.2\nnear_duplicates: 1.0\ndecontaminate: null\nrow_bytes: 600\n"
    )
    return path


@pytest.fixture
def ws(tmp_path: Path):
    """Return an empty workspace."""
    from registry.workspace import Workspace

    workspace = Workspace.create(tmp_path / "ws")
    yield workspace
    workspace.close()
