"""The main job, end to end, through the command line: offline, killed on the way, and every promise kept."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from registry.journal import read_segment
from registry.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HALLMARK = [sys.executable, "-P", "-m", "governance.cli.main"]


def hallmark(root, *args):
    return subprocess.run(
        [*HALLMARK, *args, "--workspace", str(root)], capture_output=True, text=True, check=False, timeout=300
    )


def test_kill_9_on_the_way_left_nothing_running_and_nothing_broken(demo):
    assert demo.killed >= 2
    assert demo.leftover == []
    verified = hallmark(demo.root, "log", "verify")
    assert verified.returncode == 0, verified.stdout
    ws = Workspace.open(demo.root)
    manifests = [path.stem for path in (demo.root / "objects" / "manifests").glob("*.json")]
    assert manifests
    assert [problem for name in manifests for problem in ws.artifacts.verify(f"sha256:{name}")] == []


def test_every_acknowledged_record_is_in_the_projection_once(demo):
    ws = Workspace.open(demo.root)
    written = sum(1 for path in ws.journal.segments() for _ in read_segment(path))
    assert ws.store.query("SELECT count(*) AS n, count(DISTINCT hash) AS d FROM event") == [
        {"n": written, "d": written}
    ]
    before = ws.store.query("SELECT * FROM event ORDER BY seq")
    ws.store.rebuild()
    assert ws.store.query("SELECT * FROM event ORDER BY seq") == before


def test_the_damaged_candidate_is_refused_with_a_readable_reason(demo):
    text = demo.output.split("== 3.")[1].split("== 4.")[0]
    assert re.search(r"FAIL +domain_bpb", text)
    assert re.search(r"gain .*interval \[", text)
    assert "worst samples" in text
    assert "(exit code 1)" in text
    assert "error: the gate's verdict is FAIL: only PASS is certified and promoted" in text


def test_the_good_candidate_is_certified_and_promoted(demo):
    text = hallmark(demo.root, "gate", "show", "good").stdout
    for kpi in ("domain_bpb", "general_bpb", "next_line", "policy_violations"):
        assert re.search(rf"PASS +{kpi}", text), text
    assert "verified  alias prod" in demo.output.split("== 4.")[1].split("== 5.")[0]
    ws = Workspace.open(demo.root)
    version = ws.resolve("good", "version")
    assert ws.release("prod").version == version.id
    history = ws.store.query("SELECT version FROM alias_history WHERE alias = 'prod' ORDER BY seq")
    assert [row["version"] for row in history[:2]] == [ws.resolve("base", "version").id, version.id]
    denied = ws.store.query("SELECT actor, subject FROM event WHERE kind = 'access.denied'")
    assert {row["actor"] for row in denied} == {"trainer"}


def test_each_version_was_trained_once(demo):
    ws = Workspace.open(demo.root)
    assert sorted(asset.name for asset in ws.assets("version")) == ["bad", "base", "good"]
    assert {asset.number for asset in ws.assets("version")} == {1}
    assert sorted(asset.name for asset in ws.assets("dataset")) == ["stdlib", "stdlib-scan"]


def test_the_intern_is_denied_by_name_of_the_rule_and_the_topic_is_blocked(demo):
    text = demo.output.split("== 5.")[1].split("== 6.")[0]
    assert re.search(r"403 .*interns-may-not", text), text
    assert re.search(r"200 .*\((length|stop)\)", text)
    assert len(re.findall(r"^ +400 ", text, re.MULTILINE)) == 1


def test_the_secret_never_left_and_the_rest_did(demo):
    text = demo.output.split("Received, chunk by chunk:")[1].splitlines()[1].replace("|", "")
    assert re.search(r"the key is \[REDACTED[^\]]*\] ok", text), text


def test_json_is_decoded_by_constraint(demo):
    text = demo.output.split("JSON by decode-time constraint:")[1].splitlines()[1]
    found = re.search(r"200 +'(\{.*\})'", text)
    assert found, text
    assert isinstance(json.loads(found.group(1))["ok"], bool)


def test_flipped_weights_are_refused_by_name(demo):
    text = demo.output.split("== 6.")[1].split("== 7.")[0]
    assert re.search(r"error: .*model\.safetensors.* was altered", text), text
    assert "(exit code 1)" in text


def test_every_request_is_in_the_decision_log(demo):
    ws = Workspace.open(demo.root)
    rows = ws.store.query("SELECT action, count(*) AS n FROM gateway_decision WHERE endpoint = 'prod' GROUP BY action")
    counts = {row["action"]: row["n"] for row in rows}
    assert sum(counts.values()) >= 65
    assert counts["deny"] >= 1
    assert counts["block"] >= 1
    assert counts["redact"] >= 1


def test_reports_are_written_and_say_what_happened(demo):
    page = next((demo.root / "reports").glob("good-*.html")).read_text(encoding="utf-8")
    assert "FAIL" in page
    assert "PASS" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)
    suite = ET.parse(demo.root / "reports" / "gate.xml").getroot()
    assert {case.get("name") for case in suite.iter("testcase")} >= {"domain_bpb", "policy_violations"}
    assert (demo.root / "reports" / "drift.html").stat().st_size > 10_000


def test_rollback_and_lineage_work_on_what_is_there(demo):
    lineage = hallmark(demo.root, "lineage", "good", "--json")
    assert {node["kind"] for node in json.loads(lineage.stdout)["ancestry"]} >= {"run", "dataset", "version"}
    assert hallmark(demo.root, "rollback", "prod", "--reason", "drill").returncode == 0
    ws = Workspace.open(demo.root)
    assert ws.release("prod").version == ws.resolve("base", "version").id
    assert hallmark(demo.root, "rollback", "prod", "--to", "good", "--reason", "drill over").returncode == 0
    assert hallmark(demo.root, "verify", "prod").returncode == 0
