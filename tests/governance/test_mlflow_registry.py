"""MLflow: a real registry in a folder and a real client; certified versions, tags, aliases; the second time nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from governance import mlflow_registry, promotion
from governance.cli.app import run
from governance.cli.main import cli
from registry.errors import EngineFailure, NotFound, Refused, SpecError
from tests.governance import proving

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocked())
from governance.cli.app import run
from governance.cli.main import cli

sys.exit(run(cli, sys.argv[1:]))
"""


@pytest.fixture
def certified(made, tmp_path):
    """A private copy of the workspace with one certified release, `prod`; and its certificate."""
    ws, certificate, _ = proving.copied(made, tmp_path)
    return ws, certificate


@pytest.fixture
def folder(tmp_path):
    """A folder for MLflow's registry, as a URI."""
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture
def client(folder, monkeypatch):
    """Return a function that opens MLflow's own client on the folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name, value in mlflow_registry.QUIET.items():
        monkeypatch.setenv(name, value)

    def opened():
        from mlflow import MlflowClient

        return MlflowClient(folder, folder)

    return opened


def test_a_certified_version_is_there_with_its_tags_and_alias(certified, folder, client):
    ws, certificate = certified
    done = mlflow_registry.export(ws, "", folder)
    version = ws.resolve("code", "version")
    (found,) = client().search_model_versions("name = 'code'")
    assert found.source == version.body["manifest"]
    assert found.tags == {
        "hallmark.version": version.id,
        "hallmark.model": "code:1",
        "hallmark.workspace": ws.settings.workspace_id,
        "hallmark.candidate": certificate.body["candidate"],
        "hallmark.certificate": certificate.id,
        "hallmark.decision": certificate.body["decision"],
        "hallmark.verdict": "PASS",
        "hallmark.expires": certificate.body["expires"],
        "hallmark.standing": "valid",
    }
    assert client().get_model_version_by_alias("code", "prod").version == found.version
    assert [model.tags for model in done.models] == [found.tags]
    assert len(done.changes) == 3
    event = ws.store.query("SELECT subject, body FROM event WHERE kind = 'mlflow.exported'")
    assert [row["subject"] for row in event] == [folder]
    assert json.loads(event[0]["body"])["versions"] == {version.id: "code/1"}


def test_the_second_time_nothing_is_written(certified, folder, tmp_path):
    ws, _ = certified
    mlflow_registry.export(ws, "", folder)

    def files():
        return {str(path): path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file()}

    before, size = files(), len(ws.store.query("SELECT seq FROM event"))
    done = mlflow_registry.export(ws, "", folder)
    assert done.changes == ()
    assert [model.number for model in done.models] == ["1"]
    assert files() == before
    assert len(ws.store.query("SELECT seq FROM event")) == size


def test_aliases_and_standing_follow_what_happens_here(certified, folder, client, tmp_path):
    ws, first = certified
    mlflow_registry.export(ws, "", folder)
    client().set_registered_model_alias("code", "champion", "1")
    proving.certified(ws, tmp_path, b"b")
    mlflow_registry.export(ws, "", folder)
    assert client().get_registered_model("code").aliases == {"champion": "1", "prod": "2"}
    promotion.revoke(ws, first.id, reason="data withdrawn")
    done = mlflow_registry.export(ws, "", folder)
    assert done.changes == ("code:1: hallmark.standing is revoked",)
    second = ws.resolve("@prod", "certificate")
    promotion.revoke(ws, second.id, reason="data withdrawn")
    done = mlflow_registry.export(ws, "", folder)
    assert "alias prod of model code is taken away" in done.changes
    assert done.notes[0].startswith("alias `prod` left out: ")
    assert client().get_registered_model("code").aliases == {"champion": "1"}


def test_one_version_by_reference_certified_or_not(ws, add_version, folder, client):
    add_version(b"a")
    second = add_version(b"b")
    assert mlflow_registry.export(ws, "", folder).models == ()
    done = mlflow_registry.export(ws, "code:2", folder)
    (found,) = client().search_model_versions("name = 'code'")
    assert {name.removeprefix("hallmark.") for name in found.tags} == {"version", "model", "workspace"}
    assert (found.tags["hallmark.version"], done.models[0].number) == (second.id, "1")


def test_versions_of_others_are_left_alone(certified, folder, client):
    ws, _ = certified
    mlflow = client()
    mlflow.create_registered_model("code")
    mlflow.create_model_version("code", "elsewhere", tags={"hallmark.version": "x"}, await_creation_for=0)
    mlflow.set_registered_model_alias("code", "staging", "1")
    mlflow_registry.export(ws, "", folder)
    assert mlflow.get_model_version("code", "1").tags == {"hallmark.version": "x"}
    assert mlflow.get_registered_model("code").aliases == {"staging": "1", "prod": "2"}


def test_files_are_copied_only_when_asked_for_and_verified(certified, folder, client, tmp_path):
    ws, _ = certified
    (model,) = mlflow_registry.export(ws, "", folder, files=tmp_path / "files").models
    (copy,) = (tmp_path / "files").iterdir()
    assert model.source == copy.as_uri()
    manifest = ws.artifacts.manifest(ws.resolve("code", "version").body["manifest"])
    assert {path.name for path in copy.iterdir()} == {entry.path for entry in manifest.entries}
    assert mlflow_registry.export(ws, "", folder, files=tmp_path / "files").changes == ()
    client().delete_registered_model("code")
    with pytest.raises(Refused, match="is there already"):
        mlflow_registry.export(ws, "", folder, files=tmp_path / "files")


def test_what_mlflow_cannot_do_is_said(certified, folder, tmp_path, monkeypatch):
    ws, _ = certified
    with pytest.raises(SpecError, match="no store for `foo://there/x` here") as refused:
        mlflow_registry.export(ws, "", "foo://me:secret@there/x")
    assert "pip install mlflow" in refused.value.hint
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(EngineFailure, match="MLflow at `http://127.0.0.1:9` failed") as failed:
        mlflow_registry.export(ws, "", "http://me:secret@127.0.0.1:9")
    assert "secret" not in failed.value.message
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    with pytest.raises(NotFound):
        mlflow_registry.export(ws, "nosuch", folder)
    assert not (tmp_path / "mlruns").exists()


def test_a_database_without_its_driver_is_a_clear_error(certified, tmp_path):
    pytest.importorskip("mlflow")
    if _installed("sqlalchemy"):
        pytest.skip("a database driver is installed here")
    with pytest.raises(SpecError, match="MLflow has no store for `sqlite:///"):
        mlflow_registry.export(certified[0], "", f"sqlite:///{tmp_path}/mlflow.db")


def _installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_a_name_that_mlflow_refuses_is_refused_before_anything_is_written(ws, add_version, folder, tmp_path):
    add_version(name="a/b")
    with pytest.raises(SpecError, match="MLflow takes no model of the name `a/b`"):
        mlflow_registry.export(ws, "a/b", folder)
    assert not (tmp_path / "mlruns").exists()


def test_the_command_line_registers_and_says_what_it_did(certified, folder, capsys):
    ws, _ = certified
    at = ["--workspace", str(ws.root)]
    assert run(cli, ["export", "mlflow", "--uri", folder, *at]) == 0
    assert "alias prod of model code is version 1" in capsys.readouterr().out
    assert run(cli, ["export", "mlflow", "code:1", "--uri", folder, *at]) == 0
    assert "has it all already (1 model versions)" in capsys.readouterr().out
    assert run(cli, ["export", "mlflow", "--uri", folder, "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "code"
    assert run(cli, ["export", "mlflow", *at]) == 2
    assert "`mlflow` needs `--uri`" in capsys.readouterr().err
    assert run(cli, ["export", "prov", "--uri", folder, *at]) == 2
    assert run(cli, ["export", "mlflo", *at]) == 2
    assert "did you mean `mlflow`?" in capsys.readouterr().err


def test_without_mlflow_the_line_that_installs_it_is_given(certified, folder):
    ws, _ = certified
    line = [sys.executable, "-P", "-c", BLOCKED, "export", "mlflow", "--uri", folder, "--workspace", str(ws.root)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2
    assert "`mlflow-skinny` is not installed" in done.stderr
    assert "pip install 'hallmark-platform[mlflow]'" in done.stderr


@pytest.fixture
def server(client, tmp_path, monkeypatch):
    """A tracking server over http; the folder is its store."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    stub = Path(__file__).parents[1] / "stubs" / "mlflow_server.py"
    child = subprocess.Popen(
        [sys.executable, "-P", str(stub), str(tmp_path / "mlruns")], stdout=subprocess.PIPE, text=True
    )
    yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    child.terminate()
    child.wait(timeout=20)
    child.stdout.close()


def test_a_server_over_http_gets_the_same_and_is_asked_page_by_page(certified, server, client, tmp_path):
    ws, _ = certified
    mlflow_registry.export(ws, "", server)
    proving.certified(ws, tmp_path, b"b")
    assert len(mlflow_registry.export(ws, "", server).changes) == 2
    assert client().get_registered_model("code").aliases == {"prod": "2"}
    done = mlflow_registry.export(ws, "", server)
    assert (done.uri, done.changes) == (server, ())
    assert [(model.number, model.tags["hallmark.model"]) for model in done.models] == [("1", "code:1"), ("2", "code:2")]
