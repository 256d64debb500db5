"""Bad input through the command line: one line that says what is wrong, a hint, the right exit code, nothing lost."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "quickstart"
HALLMARK = [sys.executable, "-P", "-m", "governance.cli.main"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    root = tmp_path_factory.mktemp("e2e") / "ws"
    subprocess.run([*HALLMARK, "init", str(root), "--example", "quickstart"], check=True, capture_output=True)
    return root


@pytest.fixture
def root(fresh, tmp_path):
    return Path(shutil.copytree(fresh, tmp_path / "ws"))


def hallmark(root, *args, **env):
    return subprocess.run(
        [*HALLMARK, *map(str, args)], cwd=root, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def refused(root, *args, code=2, says, hint=None, **env):
    """The command ends with `code`, says one `error:` line and one `hint:` line, and prints no result."""
    done = hallmark(root, *args, **env)
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert says in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if hint is not None:
        assert any(line.startswith("hint: ") and hint in line for line in lines), done.stderr


def test_an_unknown_yaml_key_names_file_line_and_the_near_key(root):
    spec = root / "specs" / "good.yaml"
    spec.write_text(spec.read_text().replace("sequence_length:", "sequence_lenght:"))
    line = next(n for n, text in enumerate(spec.read_text().splitlines(), 1) if "lenght" in text)
    refused(
        root, "train", "run", spec, says=f"good.yaml:{line}: `sequence_lenght`: unknown key", hint="sequence_length"
    )


def test_a_wrong_type_names_the_field(root):
    spec = root / "specs" / "good.yaml"
    spec.write_text(spec.read_text().replace("seed: 2", "seed: two"))
    refused(root, "train", "run", spec, says="`seed`", hint="two")


def test_a_missing_file_is_named(root):
    refused(root, "data", "build", "absent.yaml", says="no spec file `absent.yaml`", hint="check the path")


def test_an_empty_suite_is_refused(root):
    suite = root / "specs" / "suite.yaml"
    suite.write_text(suite.read_text().split("kpis:")[0] + "kpis: []\n")
    refused(root, "eval", "plan", suite, says="the suite has no KPIs", hint="add at least one")


def test_an_unknown_version_offers_what_is_there(root):
    refused(
        root, "gate", "run", "nope", "--suite", "specs/suite.yaml", says="unknown version `nope`", hint="known: none"
    )
    refused(root, "candidate", "show", "ffff", says="unknown candidate `ffff`")
    refused(root, "promote", "nope", "--to", "prod", says="`nope`")


def test_an_alias_that_was_never_promoted_is_not_served(root):
    refused(root, "serve", "prod", "--port", "0", says="unknown alias `prod`", hint="nothing was promoted yet")


def test_a_missing_key_is_named(root):
    (root / "keys" / "trainer.pem").unlink()
    (root / "keys" / "operator.pem").unlink()
    refused(root, "key", "create", "dana", "--role", "viewer", says="no key for `operator`", hint="hallmark key create")


def test_a_key_others_can_read_is_refused(root):
    (root / "keys" / "operator.pem").chmod(0o644)
    refused(root, "key", "create", "dana", "--role", "viewer", code=1, says="can be read by others", hint="chmod 600")


def test_acting_as_nobody_or_in_the_wrong_role(root):
    refused(root, "train", "run", "specs/good.yaml", "--as", "nobody", says="unknown principal `nobody`")
    said = "`auditor` (auditor) may not train"
    refused(root, "train", "run", "specs/good.yaml", "--as", "auditor", code=1, says=said, hint="`trainer`")
    shown = hallmark(root, "log", "show", "--kind", "access.denied", "--json")
    assert [event["actor"] for event in json.loads(shown.stdout)] == ["auditor"]


def test_no_workspace_is_an_error_with_the_command_that_makes_one(tmp_path):
    refused(tmp_path, "log", "show", says="no workspace at or above", hint="hallmark init")


def test_a_workspace_is_not_made_twice(root):
    refused(root, "init", root, code=1, says="is a workspace already")


def test_a_store_locked_by_another_process_is_said_with_its_pid(root):
    lock = (root / "store" / "lock").open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.seek(0)
    lock.write(str(os.getpid()))
    lock.truncate()
    lock.flush()
    (root / "store" / "current").unlink()
    try:
        refused(root, "log", "show", says=f"locked by another process (pid {os.getpid()})", hint="wait for it",
                HALLMARK_LOCK_WAIT_S="0.3")  # fmt: skip
    finally:
        lock.close()
    assert hallmark(root, "log", "verify").returncode == 0


def test_a_port_taken_is_said_before_any_engine_starts(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(root, "serve", "--permit", "none", "--port", port, says=f"port {port} on 127.0.0.1 is taken",
                hint="--port 0")  # fmt: skip


def test_a_corrupt_source_file_is_quarantined_and_counted(root, tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    for number in range(12):
        (source / f"m{number}.py").write_text(
            f'"""Module {number}."""\n\n\ndef f{number}(x):\n    return x + {number}\n'
        )
    (source / "broken.py").write_text("def f(:\n")
    (source / "binary.py").write_bytes(b"\xff\xfe\x00\x01" * 50)
    spec = root / "specs" / "small.yaml"
    spec.write_text(
        f"name: small\nsources:\n  - {{kind: folder, name: src, path: {source}, licence: Apache-2.0}}\nholdout: 0.2\n"
    )
    done = hallmark(root, "data", "build", spec, "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)["body"]
    assert sorted(item["path"] for item in body["quarantined"]) == ["binary.py", "broken.py"]
    assert all(item["reason"] for item in body["quarantined"])
    again = hallmark(root, "data", "build", spec, "--json")
    assert json.loads(again.stdout)["id"] == json.loads(done.stdout)["id"]


def test_a_damaged_journal_is_named_with_exit_1(root):
    segment = root / "journal" / "000001.seg"
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(bytes(data))
    done = hallmark(root, "log", "verify")
    assert done.returncode == 1
    assert "000001.seg` is broken at byte" in done.stdout + done.stderr


def test_a_policy_with_a_mistake_is_not_activated(root):
    policy = root / "specs" / "policy" / "access.cedar"
    policy.write_text(policy.read_text().replace("resource.status", "resource.stauts"))
    done = hallmark(root, "policy", "check", "specs/policy")
    assert done.returncode == 1
    assert "stauts" in done.stdout
    refused(root, "policy", "activate", "specs/policy", says="attribute `stauts` on entity type `Model` not found")
