"""Checks an evidence bundle without Hallmark: this one file, the standard library and `cryptography`.

    python verifier.py BUNDLE --root WORKSPACE_ID [--weights FOLDER] [--checkpoint FILE] [--at TIME] [--json]

Trust starts at the workspace id, the SHA-256 of the root operator's public key, which the reader brings along. It ends
with 0: all holds; 1: something does not, each line names one thing; 2: could not decide (unreadable, wrong usage).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

MEDIA = "application/vnd.hallmark.{}+json"
CERTIFICATE = ("https://in-toto.io/Statement/v1", "urn:hallmark:certificate:v1")
PARTS = ("weights", "adapter", "bundle")  # of a candidate: each a manifest, and the prefix of its files' names
VOUCHED = {f"principal.{what}": kind for what, kind in
           (("created", "principal"), ("rotated", "rotation"), ("revoked", "revocation"))}  # fmt: skip
MAKERS = {"trainer", "agent", "operator"}
SEALERS = {"eval_run": {"evaluator"}, "decision": {"evaluator"}, "run": MAKERS, "version": MAKERS, "adapter": MAKERS}
"""Roles whose signature a record must carry, by what it registers or else its kind; operators' unless told here."""
EVIDENCE = {"eval_run", "decision", "certificate"}  # void once the key that sealed it is revoked
UNSEALED = {"suite", "candidate"}
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, ArithmeticError)


class Broken(Exception):
    """What does not hold: one text each."""


@dataclass(frozen=True)
class Key:
    """A vouched principal's key; `since` and `until` are the places in the log between which it may sign."""

    name: str
    role: str
    public: str
    since: int
    until: float = float("inf")
    revoked: bool = False

    def signs(self, place: int, roles: Iterable[str], void: bool = True) -> bool:
        """Say whether what it signed at this place of the log counts; revocation voids evidence signed before, too."""
        return self.role in roles and self.since <= place < self.until and not (self.revoked and void)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def decode(text: str) -> bytes:
    """Return the bytes of a base64 text in its one spelling. Raises ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 with stray bits")
    return data


def canonical(value: Any) -> bytes:
    """Return RFC 8785 JSON of plain data. Raises ValueError or TypeError for what that cannot write."""
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(item) for name, item in ordered) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, float):
        return _number(value).encode()
    if isinstance(value, int) and abs(value) >= 2**53:
        raise ValueError("integer out of range")
    return json.dumps(value, ensure_ascii=False).encode()


def _number(value: float) -> str:
    """Write a number as ECMAScript does (ECMA-262, Number::toString): the shortest digits, exponents beyond 21."""
    if value == 0:
        return "0"
    _, figures, exponent = Decimal(repr(abs(value))).normalize().as_tuple()
    digits, sign = "".join(map(str, figures)), "-" if value < 0 else ""
    point = len(digits) + int(exponent)  # a ValueError for what is no number
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1:+d}"


def good(public: str, signature: bytes, data: bytes) -> bool:
    """Say whether a signature by a raw Ed25519 key (64 hex digits) or a compressed P-256 point (66) verifies."""
    raw = bytes.fromhex(public)
    try:
        if len(raw) == 32:
            ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(signature, data)
        else:
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
            point.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def dsse(kind: str, payload: bytes) -> bytes:
    """Return what a DSSE signature signs (DSSE protocol 1.0)."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def opened(envelope: Any, kind: str, keys: dict[str, Key]) -> tuple[Any, Key]:
    """Return the payload of a DSSE envelope and which of `keys` signed it. Raises Broken."""
    if envelope["payloadType"] != kind:
        raise Broken(f"it is a `{envelope['payloadType']}`, not a `{kind}`")
    payload = decode(envelope["payload"])
    for mark in envelope["signatures"]:
        if key := keys.get(mark["keyid"]):
            if good(key.public, decode(mark["sig"]), dsse(kind, payload)):
                return json.loads(payload), key
            raise Broken(f"it is not what `{key.name}` signed")
    raise Broken("it is signed by no key that may sign it")


def node(left: bytes, right: bytes) -> bytes:
    """Return an inner node of the RFC 6962 tree."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def climb(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to from leaf `index` of `size` (RFC 6962 section 2.1.1)."""
    if (size, index, proof) == (1, 0, []):
        return leaf  # a proof of another length ends in a ValueError below
    half, (*rest, last) = 1 << (size - 1).bit_length() - 1, proof
    if index < half:
        return node(climb(leaf, index, half, rest), last)
    return node(last, climb(leaf, index - half, size - half, rest))


def extend(first: int, size: int, older: bytes, proof: list[bytes], whole: bool = True) -> tuple[bytes, bytes]:
    """Return the roots over `first` and `size` records that a consistency proof leads to (RFC 6962 section 2.1.2)."""
    if first == size:
        (found,) = [older, *proof] if whole else proof
        return found, found
    half, (*rest, last) = 1 << (size - 1).bit_length() - 1, proof
    if first <= half:
        left, right = extend(first, half, older, rest, whole)
        return left, node(right, last)
    left, right = extend(first - half, size - half, older, rest, False)
    return node(last, left), node(last, right)


def note(path: Path) -> tuple[str, int, bytes, datetime, list[str]]:
    """Return origin, size, root, time and signature lines of a checkpoint (C2SP signed note)."""
    body, _, marks = path.read_bytes().decode().rpartition("\n\n")
    origin, size, tree, *rest = body.split("\n")
    (time,) = (datetime.fromisoformat(line.removeprefix("time ")) for line in rest if line.startswith("time "))
    if not size.isdecimal() or not 0 < int(size) < 2**53 or len(decode(tree)) != 32 or time.tzinfo is None:
        raise ValueError("no size, root and time")
    return origin, int(size), decode(tree), time, marks.removesuffix("\n").split("\n")


def compare(expected: dict[str, str], found: dict[str, str]) -> None:
    """Raise Broken with every name whose digest is not the expected one."""
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    why = {n: "is missing" if n not in found else "was altered" if n in expected else "does not belong" for n in names}
    if names:
        raise Broken(*(f"`{name}` {why[name]}" for name in names))


def hashed(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder. Raises Broken for links and special files."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Broken(f"`{name}` is a link or no plain file")
        if path.is_file():
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


class Evidence:
    """A bundle while it is checked: `checked` says what holds, `problems` what does not."""

    def __init__(self, folder: Path, root: str) -> None:
        self.folder, self.root = folder, root
        self.digests: dict[str, str] = {}
        self.records: list[dict[str, Any]] = []
        self.keys: dict[str, Key] = {}
        self.size, self.tree, self.time, self.certificate = 0, b"", datetime.now(UTC), ""
        self.statement: dict[str, Any] = {}
        self.checked: list[str] = []
        self.problems: list[str] = []

    def step(self, name: str, check: Callable[..., str], *args: Any) -> None:
        """Run one check; what it finds wrong is listed, and the others still run."""
        try:
            self.checked.append(check(*args))
        except Broken as error:
            self.problems += [f"{name}: {text}" for text in error.args]
        except FileNotFoundError as error:
            self.problems.append(f"{name}: `{Path(str(error.filename)).name}` is missing")
        except MALFORMED as error:
            self.problems.append(f"{name}: malformed ({type(error).__name__}: {error})")

    def read(self, name: str) -> Any:
        """Return a JSON file of the bundle."""
        return json.loads((self.folder / name).read_bytes())

    def of(self, what: str) -> list[dict[str, Any]]:
        """Return the records of a kind, or that register an asset of a kind, in the order of the log."""
        return [record for record in self.records if record["what"] == what]

    def signing(self, place: int, *roles: str, void: bool = True) -> dict[str, Key]:
        """Return the keys of these roles whose signature counts at a place of the log."""
        return {ident: key for ident, key in self.keys.items() if key.signs(place, roles, void)}

    def sealer(self, record: dict[str, Any]) -> str:
        """Return who sealed a record. Raises Broken for a seal that does not verify or does not count."""
        name, mark = f"record {record['index']} ({record['what']})", record.get("sig")
        roles = SEALERS.get(record["what"], {"operator"})
        if mark is None:
            raise Broken(f"{name} carries no signature")
        key = self.keys.get(mark["keyid"])
        claim = {part: record[part] for part in ("kind", "subject", "body", "actor")}
        claim |= {"workspace": self.root, "at": mark["at"]}
        signed = dsse(MEDIA.format("event"), canonical(claim))
        if key is None or key.name != record["actor"] or not good(key.public, decode(mark["sig"]), signed):
            raise Broken(f"{name} is not signed by `{record['actor']}`")
        if not key.signs(record["index"], roles, record["what"] in EVIDENCE):
            raise Broken(f"{name}: the signature of `{key.name}` ({key.role}) does not count, or no longer")
        return key.name

    def asset(self, kind: str, ident: str) -> dict[str, Any]:
        """Return the record that registered an asset, once its content hashes to its id and its seal holds."""
        for record in self.of(kind):
            if record["subject"] == ident and record["kind"] == "asset.registered":
                if sha256(canonical({"kind": kind, "body": record["body"]["body"]})) != ident[7:]:
                    raise Broken(f"{kind} `{ident[7:19]}` does not hash to its id")
                if kind not in UNSEALED:
                    self.sealer(record)
                return record
        raise Broken(f"{kind} `{ident[7:19]}` is not among the records")

    # ---- the checks, in order ----------------------------------------------------------------------------------------

    def files(self) -> str:
        """The folder holds the files of its index, as they were, and no other."""
        self.digests = hashed(self.folder)
        listed = json.loads(decode(self.read("index.json")["payload"]))["files"]
        compare(listed, {name: found for name, found in self.digests.items() if name != "index.json"})
        return f"{len(listed)} files as the index lists them"

    def log(self) -> str:
        """Each record is in the log that the checkpoint names, and they stand in its order."""
        origin, self.size, self.tree, self.time, _ = note(self.folder / "checkpoint.txt")
        bad, last = [f"the checkpoint is of the log `{origin}`"] if origin != f"hallmark/{self.root}" else [], -1
        for line in (self.folder / "events.jsonl").read_bytes().decode().removesuffix("\n").split("\n"):
            entry = json.loads(line)
            record, index = json.loads(entry["payload"]), entry["index"]
            what = record["body"]["kind"] if record["kind"] == "asset.registered" else record["kind"]
            name = f"record {index} ({what} `{record['subject'][:19]}`)"
            proof = [bytes.fromhex(step) for step in entry["proof"]]
            try:
                root = climb(hashlib.sha256(b"\0" + entry["payload"].encode()).digest(), index, self.size, proof)
            except ValueError:
                root = b""
            bad += [f"{name} stands out of order"] if index <= last else []
            bad += [f"{name} is not in the log of the checkpoint"] if root != self.tree else []
            self.records.append({**record, "index": index, "what": what})
            last = index
        if bad:
            raise Broken(*bad)
        return f"{len(self.records)} of {self.size} records are in the log of {self.time.isoformat()}, in its order"

    def principals(self) -> str:
        """Each key is vouched for by an operator's signature, back to the root key; none holds two names."""
        current: dict[str, str] = {}
        for record in (found for found in self.records if found["kind"] in VOUCHED):
            body, place, name = record["body"], record["index"], record["subject"]
            old, expected = current.get(name, ""), {"name": name, "workspace": self.root}
            vouching = self.signing(place, "operator")
            if not self.keys and body["keyid"] == self.root:
                vouching = {self.root: Key(name, "operator", body["public"], place)}
            if record["kind"] == "principal.revoked":
                expected |= {"keyid": old, "reason": body["reason"]}
            else:
                expected |= {"role": body["role"], "public": body["public"]} | ({"replaces": old} if old else {})
            claim, _ = opened(body["envelope"], MEDIA.format(VOUCHED[record["kind"]]), vouching)
            claim.pop("at", None)
            if claim != expected or (record["kind"] == "principal.created") == bool(old):
                raise Broken(f"record {place}: `{name}` is not what an operator signed")
            if old:
                self.keys[old] = replace(self.keys[old], until=place, revoked=record["kind"] == "principal.revoked")
            if record["kind"] != "principal.revoked":
                current[name] = sha256(bytes.fromhex(body["public"]))
                if current[name] in self.keys or current[name] != body["keyid"]:
                    raise Broken(f"record {place}: the key of `{name}` is registered twice")
                self.keys[current[name]] = Key(name, body["role"], body["public"], place)
        return f"{len(self.keys)} keys, vouched for from the root"

    def signed_note(self, path: Path) -> str:
        """An operator or auditor signed a checkpoint."""
        origin, size, _, _, marks = note(path)
        for mark in marks:
            dash, name, coded = mark.split(" ")
            for key in self.signing(size - 1, "operator", "auditor", void=False).values():
                hint = hashlib.sha256(f"{name}\n\x01".encode() + bytes.fromhex(key.public)).digest()[:4]
                if f"{origin}/{key.name}" == name and decode(coded)[:4] == hint and len(key.public) == 64:
                    text = path.read_bytes().rpartition(b"\n\n")[0] + b"\n"
                    if dash != "\u2014" or not good(key.public, decode(coded)[4:], text):
                        raise Broken(f"it is not what `{key.name}` signed")
                    return f"checkpoint signed by `{key.name}` ({key.role})"
        raise Broken("no operator or auditor whose key holds signed it")

    def index(self) -> str:
        """An operator signed the index, which is written in its one spelling."""
        index, key = opened(self.read("index.json"), MEDIA.format("index"), self.signing(self.size, "operator"))
        written = (self.folder / "index.json").read_bytes()
        if index["workspace"] != self.root or canonical(self.read("index.json")) != written:
            raise Broken("it is of another workspace, or was rewritten")
        return f"index signed by `{key.name}` at {index['created']}"

    def certified(self) -> str:
        """The certificate is registered, signed by an operator, and certifies a PASS of the candidate it describes."""
        envelope = self.read("certificate.json")
        found = [record for record in self.of("certificate") if record["body"]["body"]["envelope"] == envelope]
        place = found[0]["index"] if found else self.size
        self.statement, key = opened(envelope, "application/vnd.in-toto+json", self.signing(place, "operator"))
        predicate = self.statement["predicate"]
        if (self.statement["_type"], self.statement["predicateType"]) != CERTIFICATE or not found:
            raise Broken("it is no certificate that the log registers")
        self.certificate = found[0]["subject"]
        self.asset("certificate", self.certificate)
        if self.asset("candidate", predicate["candidateDigest"])["body"]["body"] != predicate["candidate"]:
            raise Broken("it describes another candidate than the one it names")
        if predicate["verdict"] != "PASS" or predicate["workspace"] != self.root:
            raise Broken(f"it rests on the verdict {predicate['verdict']}, or is of another workspace")
        return f"certificate {self.certificate[7:19]} signed by `{key.name}`, verdict PASS"

    def decided(self) -> str:
        """Decision and evaluation runs are the ones the statement binds, sealed by evaluators."""
        predicate = self.statement["predicate"]
        decision = self.asset("decision", predicate["decision"])["body"]["body"]
        self.asset("suite", predicate["suite"])
        bound = {name: predicate[name] for name in ("verdict", "suite", "baseline")}
        bound["candidate"] = predicate["candidateDigest"]
        runs = [self.asset("eval_run", run)["body"]["body"] for run in decision["eval_runs"]]
        rows = [{"evalRun": ident, "candidate": run["candidate"], "rows": run["results"], "imported": run["imported"]}
                for ident, run in zip(decision["eval_runs"], runs, strict=True)]  # fmt: skip
        instruments = {name: found for run in runs for name, found in run["instruments"].items()}
        told = {name: decision[name] for name in bound}
        if told != bound or bound["candidate"] not in {row["candidate"] for row in rows}:
            raise Broken("the decision is of something else than the certificate says")
        if rows != predicate["results"] or instruments != predicate["instruments"]:
            raise Broken("the certificate binds other results than its evaluation runs have")
        return f"decision and {len(runs)} evaluation run(s), sealed by evaluators"

    def approved(self) -> str:
        """Enough distinct approvers signed this candidate and decision; whoever trained it is none of them."""
        predicate, names = self.statement["predicate"], set()
        manifest = predicate["candidate"].get("adapter", "none")
        made = [self.asset("version", predicate["candidate"]["version"])]
        made += [r for r in self.of("adapter") if r["body"]["body"]["manifest"] == manifest]
        if manifest != "none" and len(made) < 2:
            raise Broken("the adapter is not among the records")
        runs = [record["body"]["body"].get("run") for record in made]
        trainers = {self.sealer(self.asset("run", run) if run else r) for r, run in zip(made, runs, strict=True)}
        given = {canonical(record["body"]["envelope"]): record["index"] for record in self.of("approval.given")}
        until = self.asset("certificate", self.certificate)["index"]
        withdrawn: dict[str, list[int]] = {}
        for record in self.of("approval.withdrawn"):
            if record["body"]["decision"] == predicate["decision"]:
                withdrawn.setdefault(record["actor"], []).append(record["index"])
        for envelope in predicate["approvals"]:
            keys = self.signing(given.get(canonical(envelope), -1), "approver")
            claim, key = opened(envelope, MEDIA.format("approval"), keys)
            if (claim["candidate"], claim["decision"]) != (predicate["candidateDigest"], predicate["decision"]):
                raise Broken(f"the approval of `{key.name}` is of something else")
            if key.name in trainers:
                raise Broken(f"`{key.name}` approved what they trained")
            if any(given[canonical(envelope)] < place < until for place in withdrawn.get(key.name, [])):
                raise Broken(f"`{key.name}` withdrew the approval before the certificate was issued")
            names.add(key.name)
        if not 1 <= predicate["quorum"] <= len(names):
            raise Broken(f"{len(names)} of {predicate['quorum']} approvals")
        return f"approved by {', '.join(sorted(names))}; trained by {', '.join(sorted(trainers))}"

    def subjects(self, weights: Path | None) -> str:
        """The files that the certificate lists are those of the manifests, and those of the weights at hand."""
        listed = {item["name"]: item["digest"]["sha256"] for item in self.statement["subject"]}
        recorded: dict[str, str] = {}
        for part in PARTS:
            ident = self.statement["predicate"]["candidate"].get(part, "none")
            if ident != "none":
                data = (self.folder / "manifests" / f"{ident[7:]}.json").read_bytes()
                if sha256(data) != ident[7:]:
                    raise Broken(f"the manifest of the {part} does not hash to its id")
                recorded |= {f"{part}/{item['path']}": item["sha256"][7:] for item in json.loads(data)["entries"]}
        compare(listed, recorded)
        wanted = {name: found for name, found in listed.items() if name.startswith("weights/")}
        inside = {name: found for name, found in self.digests.items() if name.startswith("weights/")}
        compare(wanted, inside or wanted)
        if weights:
            compare(wanted, {f"weights/{name}": found for name, found in hashed(weights).items()})
        return f"{len(listed)} files bound{', weights hashed and the same' if weights or inside else ''}"

    def standing(self, at: datetime) -> str:
        """The certificate is not revoked, by a list that an operator signed, and has not expired."""
        envelope, keys = self.read("revocations.json"), self.signing(self.size, "operator")
        listed, key = opened(envelope, MEDIA.format("revocations"), keys)
        revoked = {item["id"]: item["reason"] for item in listed["certificates"]}
        revoked |= {record["subject"]: record["body"]["reason"] for record in self.of("certificate.revoked")}
        if {item["keyid"] for item in listed["keys"]} != {k for k, v in self.keys.items() if v.revoked}:
            raise Broken("the revocation list names other keys than the records")
        if listed["workspace"] != self.root or self.certificate in revoked:
            raise Broken(f"the certificate was revoked: {revoked.get(self.certificate, 'in another workspace')}")
        if at >= datetime.fromisoformat(self.statement["predicate"]["expires"]):
            raise Broken(f"the certificate expired on {self.statement['predicate']['expires']}")
        moves = [self.sealer(record) for record in self.of("alias.moved")]
        as_of = datetime.fromisoformat(listed["as_of"]).isoformat()
        return f"not revoked as of {as_of} (list signed by `{key.name}`), not expired, {len(moves)} alias moves sealed"

    def outside(self, path: Path) -> str:
        """A checkpoint kept outside is of the same log, at the same point or an earlier one."""
        origin, size, tree, time, _ = note(path)
        self.signed_note(path)
        proofs = {item["size"]: [bytes.fromhex(p) for p in item["proof"]] for item in self.read("consistency.json")}
        if origin != f"hallmark/{self.root}" or size not in {*proofs, self.size}:
            raise Broken(f"not comparable: no proof from {size} records of `{origin}` to the {self.size} of the bundle")
        if extend(size, self.size, tree, proofs.get(size, [])) != (tree, self.tree):
            raise Broken(f"the log is not the one that this checkpoint saw on {time.isoformat()}: it was rewritten")
        return f"the log extends the checkpoint of {size} records from {time.isoformat()}"


def verify(folder: Path, root: str, weights: Path | None = None, checkpoint: Path | None = None,
           at: datetime | None = None) -> Evidence:  # fmt: skip
    """Return what was found in a bundle: it is verified where `problems` is empty.

    `root` is the workspace id, `weights` a folder to hash, `checkpoint` one kept outside; expiry is judged at `at`, by
    default the later of the clock and the bundle's checkpoint. Raises OSError for what cannot be read.
    """
    e = Evidence(folder, root)
    for name, check in (("files", e.files), ("log", e.log), ("principals", e.principals)):
        e.step(name, check)
    e.step("checkpoint", e.signed_note, folder / "checkpoint.txt")
    e.step("index", e.index)
    e.step("certificate", e.certified)
    if e.statement:
        e.step("decision", e.decided)
        e.step("approvals", e.approved)
        e.step("subjects", e.subjects, weights)
        e.step("standing", e.standing, at or max(datetime.now(UTC), e.time))
    if checkpoint:
        e.step("outside checkpoint", e.outside, checkpoint)
    return e


def main(argv: list[str] | None = None) -> int:
    """Read the command line, print what was found, return the exit code."""
    parser = argparse.ArgumentParser(description="Check a Hallmark evidence bundle offline.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", required=True, help="the workspace id, from a source that you trust")
    parser.add_argument("--weights", type=Path, help="a folder of weights to hash against the certificate")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint that you kept")
    parser.add_argument("--at", type=datetime.fromisoformat, help="judge expiry at this time, with its offset")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    o = parser.parse_args(argv)
    try:
        for folder in (o.bundle, o.weights):
            if folder and not folder.is_dir():
                raise NotADirectoryError(f"no folder `{folder}`")
        found = verify(o.bundle, o.root, o.weights, o.checkpoint, o.at and o.at.replace(tzinfo=o.at.tzinfo or UTC))
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    result = {"verified": not found.problems, "checked": found.checked, "problems": found.problems}
    lines = [f"  {text}" for text in found.problems or found.checked]
    told = json.dumps(result) if o.json else "\n".join(["NOT VERIFIED" if found.problems else "verified", *lines])
    sys.stdout.write(told + "\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
