"""`hallmark lineage` and `hallmark export` on a terminal: readable within 100 columns, whole under `--json`."""

import json

import pytest

from governance.cli.app import run
from governance.cli.main import cli


@pytest.fixture
def hallmark(ws, capsys):
    def ask(*args):
        code = run(cli, [*args, "--workspace", str(ws.root)])
        return code, capsys.readouterr()

    return ask


def test_tree_note_difference_and_export(ws, add_version, hallmark, tmp_path):
    first, second = add_version(b"a"), add_version(b"b")
    code, out = hallmark("lineage", "code:2", "--note", "b reads better than a")
    assert code == 0
    assert "noted on version code:2" in out.out
    code, out = hallmark("lineage", "code:2", "--up", "--json")
    assert [node["id"] for node in json.loads(out.out)["ancestry"]] == [second.body["run"]]
    code, out = hallmark("lineage", "code:2", "--diff", "code:1")
    assert "recipe.mark" in out.out
    assert "b reads better than a" in " ".join(out.out.split())
    assert max(len(line) for line in out.out.splitlines()) <= 100
    code, out = hallmark("lineage", "code:1", "--note", " ")
    assert (code, "a note needs words" in out.err) == (1, True)
    code, out = hallmark("export", "prov", "code:1", "--out", str(tmp_path / "p.json"))
    assert code == 0
    assert f"hm:{first.id}" in json.loads((tmp_path / "p.json").read_text())["entity"]
    assert hallmark("export", "csv")[0] == 2
