"""Whatever is altered, removed, added, swapped, expired, revoked or forged is refused, and the thing is named."""

import json
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from governance import approvals, evidence, permits, promotion, verification
from governance.cli.app import run
from governance.cli.main import cli
from registry import checkpoints, verifier
from registry.identity import sign_envelope
from registry.records import Adapter, Candidate, EvalRun, Suite
from tests.governance import proving

BOUNDED = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
PLACE = st.floats(0, 1, exclude_max=True)
BIT = st.integers(0, 7)
SERVED = ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"]
POLICY = ["access.cedar", "bundle.yaml"]


@pytest.fixture
def own(made, tmp_path):
    """A private copy, for tests that write."""
    return proving.copied(made, tmp_path)


@contextmanager
def damaged(path, place, bit):
    """One flipped bit while it lasts."""
    kept, mode = path.read_bytes(), path.stat().st_mode
    try:
        proving.flip(path, place, bit)
        yield
    finally:
        path.chmod(0o644)
        path.write_bytes(kept)
        path.chmod(mode)


def problems(made, **more):
    """Return what the stand-alone verifier says of a bundle, after checking that `hallmark verify` says the same."""
    ws, _, bundle = made
    found = verifier.verify(bundle, ws.settings.workspace_id, **more)
    assert verification.verify_bundle(bundle, ws.settings.workspace_id, **more).problems == tuple(found.problems)
    return found.problems


def reindexed(made, **more):
    """Return the problems of a bundle whose index an operator signed again after the damage."""
    ws, _, bundle = made
    (bundle / "index.json").unlink()
    evidence.sign_index(ws, bundle, "operator")
    return problems(made, **more)


def named(found, *texts):
    """Say that one of the problems carries all of these texts."""
    return any(all(text in problem for text in texts) for problem in found) or pytest.fail(f"{texts} not in {found}")


def stored(made):
    """Return the objects that the release rests on: (what is named, path)."""
    ws, certificate, _ = made
    candidate = ws.resolve(certificate.body["candidate"], "candidate")
    decision = ws.resolve(certificate.body["decision"], "decision")
    weights, bundle = (ws.artifacts.manifest(candidate.body[part]) for part in ("weights", "bundle"))
    found = [(name, ws.artifacts.path(weights.entry(name).blake3)) for name in SERVED]
    found += [(name, ws.artifacts.path(bundle.entry(name).blake3)) for name in POLICY]
    suite = ws.artifacts.manifest(ws.get(decision.body["suite"], Suite).manifest)
    found.append(("suite.yaml", ws.artifacts.path(suite.entry("suite.yaml").blake3)))
    run_id = decision.body["eval_runs"][0]
    found.append((f"result rows of eval_run {run_id[7:19]}", ws.artifacts.path(ws.get(run_id, EvalRun).results)))
    for part in ("weights", "bundle"):
        ident = candidate.body[part]
        found.append((ident[7:], ws.artifacts.root / "manifests" / f"{ident[7:]}.json"))
    return found


# ---- the workspace ---------------------------------------------------------------------------------------------


def test_nothing_is_wrong_before_anything_is_touched(made):
    ws, certificate, _ = made
    assert problems(made) == []
    for target in ("prod", certificate.id, "code", "core", certificate.body["candidate"], "log"):
        assert verification.verify(ws, target).problems == ()


@pytest.mark.slow
@given(index=st.integers(0, len(SERVED) + len(POLICY) + 3), place=PLACE, bit=BIT)
@settings(BOUNDED, max_examples=12, phases=[Phase.generate])
def test_a_flipped_bit_in_any_stored_file_is_named(made, index, place, bit):
    ws, certificate, _ = made
    name, path = stored(made)[index]
    with damaged(path, place, bit):
        found = verification.verify(ws, "prod" if bit % 2 else certificate.id)
        assert found.exit_code == 1
        named(found.problems, name)


@pytest.mark.parametrize("index", [0, len(SERVED), -4, -3])
def test_a_removed_file_is_named(made, index):
    ws, _, _ = made
    name, path = stored(made)[index]
    aside = path.rename(path.with_name("aside"))
    try:
        named(verification.verify(ws, "prod").problems, name)
    finally:
        aside.rename(path)


@given(place=PLACE, bit=BIT)
@BOUNDED
def test_a_flipped_bit_of_the_journal_is_found(made, place, bit):
    ws, _, _ = made
    segment = ws.journal.segments()[0]
    with damaged(segment, place, bit):
        found = verification.verify(ws, "log")
        assert found.exit_code == 1
        named(found.problems, segment.name)


@given(place=PLACE, bit=BIT)
@BOUNDED
def test_a_flipped_bit_of_the_order_is_found(made, place, bit):
    ws, _, _ = made
    order = ws.journal.root / "order.log"
    before = order.read_bytes()
    with damaged(order, place, bit):
        found = verification.verify(ws, "log")
        if order.read_bytes()[:-1] != before[:-1]:  # without its last line break a line is one that was never finished
            assert found.exit_code == 1


@pytest.mark.parametrize(
    ("kind", "inside"),
    [("asset.registered", b'"kind":"certificate"'), ("principal.created", b'"subject":"approver"'),
     ("approval.given", b'"reason":"reviewed"'), ("asset.registered", b'"kind":"eval_run"')],
)  # fmt: skip
def test_an_altered_record_that_a_release_rests_on_is_named(made, kind, inside):
    ws, _, _ = made
    segment = ws.journal.segments()[0]
    data = segment.read_bytes()
    place = next(
        at for at in range(data.find(inside), len(data)) if data.startswith(inside, at)
        and kind.encode() in data[data.rfind(b'{"actor"', 0, at) : at + 20_000]
    )  # fmt: skip
    with damaged(segment, (place + 12.5) / len(data), 0):
        named(verification.verify(ws, "prod").problems, "record", kind)


@given(place=PLACE, bit=BIT)
@BOUNDED
def test_a_flipped_bit_of_a_pointer_is_refused(made, place, bit):
    ws, _, _ = made
    with damaged(ws.pointer("prod"), place, bit):
        found = verification.verify(ws, "@prod")
        named(found.problems, "pointer file")


def test_several_problems_are_all_listed(made):
    ws, _, _ = made
    files = dict(stored(made))
    with (
        damaged(files["model.safetensors"], 0.5, 0),
        damaged(files["access.cedar"], 0.5, 0),
        damaged(files["suite.yaml"], 0.5, 0),
        damaged(ws.pointer("prod"), 0.9, 1),
    ):
        found = verification.verify(ws, "prod").problems
    for name in ("model.safetensors", "access.cedar", "suite.yaml", "pointer file"):
        named(found, name)


def test_a_folder_of_weights_is_held_against_its_certificate(made, tmp_path):
    ws, certificate, _ = made
    folder = proving.model_folder(tmp_path / "model", b"a")
    for ref in (certificate.id, "prod", "code"):
        assert verification.verify(ws, str(folder), certificate=ref).problems == ()
    (folder / "more.txt").write_text("x")
    (folder / "config.json").unlink()
    proving.flip(folder / "tokenizer.json")
    found = verification.verify(ws, str(folder), certificate=certificate.id).problems
    assert found == ("`config.json` is missing", "`more.txt` does not belong", "`tokenizer.json` was altered")


def test_a_revoked_and_an_expired_certificate_are_refused(own, monkeypatch):
    ws, certificate, _ = own
    with monkeypatch.context() as later:
        later.setattr("registry.attestation.trusted_now", lambda _: datetime(2099, 1, 1, tzinfo=UTC))
        named(verification.verify(ws, "prod").problems, "expired on")
    promotion.revoke(ws, certificate.id, reason="found to leak")
    named(verification.verify(ws, "prod").problems, "was revoked by `operator`", "found to leak")
    bundle = evidence.export(ws, certificate.id, own[2].with_name("after"))
    named(problems((ws, certificate, bundle)), "certificate was revoked: found to leak")


# ---- evidence bundles ------------------------------------------------------------------------------------------


@given(data=st.data(), place=PLACE, bit=BIT)
@settings(BOUNDED, max_examples=60)
def test_a_flipped_bit_of_any_file_of_a_bundle_is_refused(made, data, place, bit):
    _, _, bundle = made
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    with damaged(path, place, bit):
        found = problems(made)
    assert found
    if path.name != "index.json":
        named(found, f"`{path.relative_to(bundle).as_posix()}` was altered")


@given(place=PLACE, bit=BIT)
@settings(BOUNDED, max_examples=60)
def test_a_flipped_bit_of_the_index_is_refused(made, place, bit):
    with damaged(made[2] / "index.json", place, bit):
        assert problems(made)


def test_removed_and_added_files_of_a_bundle_are_named(own):
    _, _, bundle = own
    (bundle / "bom.cdx.json").unlink()
    (bundle / "more.txt").write_text("x")
    (bundle / "link").symlink_to("more.txt")
    named(problems(own), "`link` is a link")
    (bundle / "link").unlink()
    found = problems(own)
    named(found, "`bom.cdx.json` is missing")
    named(found, "`more.txt` does not belong")
    for name in ("certificate.json", "events.jsonl", "index.json", "checkpoint.txt", "revocations.json"):
        kept = (bundle / name).read_bytes()
        (bundle / name).unlink()
        named(problems(own), f"`{name}` is missing")
        (bundle / name).write_bytes(kept)


def rewrite(bundle, change):
    """Change the lines of the records of a bundle."""
    path = bundle / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def test_reordered_altered_and_missing_records_are_named_even_under_a_new_index(own):
    _, _, bundle = own
    kept = (bundle / "events.jsonl").read_bytes()

    def swapped(lines):
        return [*lines[:3], lines[4], lines[3], *lines[5:]]

    def promoted(lines):
        lines[3]["payload"] = lines[3]["payload"].replace('"role":"', '"role":"not-', 1)
        return lines

    def without(text):
        return lambda lines: [line for line in lines if text not in line["payload"]]

    for change, texts in (
        (swapped, ("stands out of order",)),
        (promoted, ("is not in the log of the checkpoint",)),
        (without('"kind":"approval.given"'), ("approvals", "signed by no key")),
        (without('"kind":"eval_run"'), ("decision", "is not among the records")),
        (without('"kind":"suite"'), ("decision", "suite", "is not among the records")),
        (without('"kind":"certificate"'), ("no certificate that the log registers",)),
        (without('"subject":"evaluator"'), ("is not signed by `evaluator`",)),
        (without('"kind":"run"'), ("approvals", "run", "is not among the records")),
    ):
        (bundle / "events.jsonl").write_bytes(kept)
        rewrite(bundle, change)
        named(reindexed(own), *texts)


def test_a_swapped_certificate_a_permit_and_the_wrong_signer_are_refused(own, tmp_path):
    ws, certificate, bundle = own
    other = proving.certified(ws, tmp_path, b"b", "next")
    envelope = certificate.body["envelope"]
    payload = verifier.decode(envelope["payload"])
    permit = permits.issue(ws, certificate.body["candidate"], "sha256:s", actor="evaluator")
    rows = ws.store.query("SELECT body FROM event WHERE kind = 'permit.issued' AND subject = ?", [permit])
    forged = sign_envelope(envelope["payloadType"], payload, ws.keys.load("evaluator"))
    for swapped, texts in (
        (other.body["envelope"], ("no certificate that the log registers",)),
        (orjson.loads(rows[0]["body"])["envelope"], ("permit+json", "not a `application/vnd.in-toto+json`")),
        (forged, ("certificate", "signed by no key that may sign it")),
    ):
        (bundle / "certificate.json").write_bytes(orjson.dumps(swapped))
        named(reindexed(own), *texts)


def test_an_index_or_a_list_signed_by_another_role_is_refused(own):
    ws, _, bundle = own
    listed = orjson.loads((bundle / "revocations.json").read_bytes())
    payload = verifier.decode(listed["payload"])
    forged = sign_envelope(listed["payloadType"], payload, ws.keys.load("auditor"))
    (bundle / "revocations.json").write_bytes(orjson.dumps(forged))
    named(reindexed(own), "standing", "signed by no key")
    evidence.sign_index(ws, bundle, "auditor")
    named(problems(own), "index", "signed by no key")


def test_an_expired_certificate_another_root_and_wrong_weights_are_named(own, tmp_path):
    _ws, _, bundle = own
    named(problems(own, at=datetime(2099, 1, 1, tzinfo=UTC)), "expired on")
    assert problems(own, at=datetime(2026, 1, 1, tzinfo=UTC)) == []
    assert verifier.verify(bundle, "0" * 64).problems
    folder = proving.model_folder(tmp_path / "model", b"a")
    assert problems(own, weights=folder) == []
    proving.flip(folder / "model.safetensors")
    (folder / "extra").write_text("x")
    found = problems(own, weights=folder)
    named(found, "`weights/model.safetensors` was altered")
    named(found, "`weights/extra` does not belong")


def test_a_checkpoint_kept_outside_shows_a_rewritten_log(own, tmp_path):
    ws, certificate, _bundle = own
    kept = tmp_path / "kept.txt"
    kept.write_text(checkpoints.recorded(ws)[0].note)
    assert problems(own, checkpoint=kept) == []
    later = evidence.export(ws, certificate.id, tmp_path / "later")
    assert problems((ws, certificate, later), checkpoint=kept) == []
    newer = tmp_path / "newer.txt"
    newer.write_text(checkpoints.recorded(ws)[-1].note)
    named(problems(own, checkpoint=newer), "not comparable")
    from registry import notes

    lines = kept.read_text().split("\n")
    lines[2] = "A" * 43 + "="
    forged = notes.sign("\n".join(lines[:4]) + "\n", f"{lines[0]}/operator", ws.keys.load("operator"))
    kept.write_text(forged)
    named(problems((ws, certificate, later), checkpoint=kept), "it was rewritten")
    kept.write_text(forged.replace("time 20", "time 21"))
    named(problems((ws, certificate, later), checkpoint=kept), "it is not what `operator` signed")


def test_weights_in_a_bundle_are_checked(own, tmp_path):
    ws, certificate, _ = own
    bundle = evidence.export(ws, certificate.id, tmp_path / "whole", with_weights=True)
    whole = (ws, certificate, bundle)
    assert problems(whole) == []
    for name, text in (("weights/model.safetensors", "was altered"), ("weights/config.json", "is missing")):
        folder = tmp_path / text.replace(" ", "")
        shutil.copytree(bundle, folder)
        path = folder / name
        path.parent.chmod(0o755)
        if text == "is missing":
            path.unlink()
        else:
            proving.flip(path)
        named(reindexed((ws, certificate, folder)), f"`{name}` {text}")


def test_the_command_line_says_1_and_names_it(made, capsys):
    ws, certificate, bundle = made
    root = ["--root", ws.settings.workspace_id]
    assert run(cli, ["verify", str(bundle), *root]) == 0
    with damaged(bundle / "certificate.json", 0.5, 0):
        assert run(cli, ["verify", str(bundle), *root]) == 1
        assert "`certificate.json` was altered" in capsys.readouterr().out
        assert verifier.main([str(bundle), *root, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["verified"] is False
    with damaged(dict(stored(made))["model.safetensors"], 0.5, 0):
        assert run(cli, ["verify", certificate.id[7:19], "--workspace", str(ws.root)]) == 1
        assert "`model.safetensors` was altered" in capsys.readouterr().out
    assert run(cli, ["verify", str(bundle / "nowhere"), *root]) == 2
    assert verifier.main([str(bundle / "nowhere"), *root]) == 2
    assert run(cli, ["verify", str(bundle), *root, "--at", "soon"]) == 2


@pytest.mark.slow
def test_an_adapters_files_and_trainer_are_checked(own, tmp_path):
    ws, certificate, _ = own
    base = certificate.body["version"]
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"r" * 64)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    manifest = ws.artifacts.add_tree(folder).id
    ws.register(Adapter("tuned", base, manifest, "LORA", 4, {}), actor="trainer", name="tuned")
    body = ws.resolve(certificate.body["candidate"], "candidate").body
    parents = [("version", base)]
    candidate = ws.register(Candidate(**{**body, "adapter": manifest}), actor="trainer", name="code", parents=parents)
    decision = ws.resolve(certificate.body["decision"], "decision")
    proving.judged(ws, candidate, decision.body["suite"])
    approvals.approve(ws, candidate, reason="reviewed")
    issued = promotion.promote(ws, candidate, "tuned").certificate
    assert verification.verify(ws, "tuned").problems == ()
    bundle = evidence.export(ws, issued.id, tmp_path / "tuned")
    made = (ws, issued, bundle)
    assert problems(made) == []
    with damaged(ws.artifacts.path(ws.artifacts.manifest(manifest).entry("adapter_config.json").blake3), 0.5, 0):
        named(verification.verify(ws, "tuned").problems, "`adapter_config.json` was altered")
    with damaged(bundle / "manifests" / f"{manifest[7:]}.json", 0.5, 0):
        named(problems(made), "the manifest of the adapter does not hash to its id")
    kept = (bundle / "events.jsonl").read_bytes()
    rewrite(bundle, lambda lines: [line for line in lines if '"kind":"adapter"' not in line["payload"]])
    named(reindexed(made), "the adapter is not among the records")
    (bundle / "events.jsonl").write_bytes(kept)
