"""One workspace: a folder with settings, keys, journal, projection and artifacts, and the verbs that touch them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import orjson

from registry import principals, seals
from registry import settings as settings_file
from registry.artifacts import Artifacts, replace_file
from registry.clock import check_clock
from registry.errors import NotFound, Refused, SpecError, Tampered, UnknownName
from registry.identity import Keys, Principal, keyid_of, public_hex
from registry.journal import Journal
from registry.projection import edge_key
from registry.records import Asset, EvalRun, Event, Record, Release, plain
from registry.settings import Settings
from registry.store import Store

R = TypeVar("R", bound=Record)
TOML = """\
# Where this workspace keeps things. Settings say where; specs say what.
workspace = "{workspace}"  # SHA-256 of the root operator's public key: what all trust here starts from

[principals]  # who acts in each role unless `--as` says otherwise
"""


class Workspace:
    """Open with `Workspace.open(root)`; every verb that changes state appends to the journal."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings = root, settings
        self.keys = Keys(root / "keys", settings.signers)
        self.artifacts = Artifacts(root / "objects")
        self.journal = Journal(root / "journal", settings.workspace_id)
        self.store = Store(root / "store", self.journal, self.artifacts, settings.number("lock_wait_s"))

    @classmethod
    def create(cls, root: Path, passphrase: bytes | None = None) -> Workspace:
        """Make a workspace with its root operator's key. Raises Refused when there is one already."""
        if (root / settings_file.FILE).exists():
            raise Refused(f"`{root}` is a workspace already", hint="name another folder")
        for name in ("journal", "store", "releases", "work"):
            (root / name).mkdir(parents=True, exist_ok=True)
        Artifacts(root / "objects").create()
        keys = Keys(root / "keys")
        if "operator" in keys.names():  # a crash came between the key and the settings file
            public = public_hex(keys.load("operator", passphrase).public_key())
        else:
            public = public_hex(keys.create("operator", passphrase))
        replace_file(root / settings_file.FILE, TOML.format(workspace=keyid_of(public)).encode())
        workspace = cls.open(root)
        workspace.add_principal("operator", "operator", public, signer="operator", passphrase=passphrase)
        return workspace

    @classmethod
    def open(cls, root: Path, flags: Mapping[str, str] | None = None) -> Workspace:
        """Return the workspace at `root`. Raises NotFound or SpecError."""
        root = root.resolve()
        return cls(root, settings_file.read(root, flags))

    def close(self) -> None:
        """Let go of the journal segment."""
        self.journal.close()

    # ---- events and assets -------------------------------------------------------------------------------------

    def record(self, kind: str, subject: str, body: dict[str, Any], *, actor: str) -> Event:
        """Append one event, sealed by the actor's key where it opens here; return it once it is durable.

        Raises NotFound, SpecError or Refused when the kind counts only with a seal and the key cannot give one.
        """
        return self.journal.append([(kind, subject, body, actor, seals.seal(self, kind, subject, body, actor))])[0]

    def register(self, record: Record, *, actor: str, name: str = "", parents: Sequence[tuple[str, str]] = ()) -> Asset:
        """Make a record an asset; the same content is registered once and keeps its first owner and name.

        Raises:
            NotFound: the results an evaluation run names are not in the store.
            Refused: the clock runs behind the newest record.
        """
        ident, content = record.id, plain(record)
        if isinstance(record, EvalRun) and not self.artifacts.path(record.results).exists():
            raise NotFound(f"no object `{record.results}`", hint="store the rows before the run that names them")
        with self.store.lock():
            state = self.store.state()
            if ident in state.assets:
                return self._asset(self.store.query("SELECT * FROM asset WHERE id = ?", [ident])[0])
            check_clock(state.newest)
            number = state.counts[record.KIND, name] + 1
            body = {"kind": record.KIND, "name": name, "number": number, "body": content,
                    "parents": [list(pair) for pair in parents]}  # fmt: skip
            event = self.record("asset.registered", ident, body, actor=actor)
            edges = tuple((relation, parent) for relation, parent in parents)
            return Asset(ident, record.KIND, name, number, actor, event.ts, content, edges)

    def assets(self, kind: str) -> list[Asset]:
        """Return all assets of a kind, oldest first."""
        rows = self.store.query("SELECT * FROM asset WHERE kind = ? ORDER BY seq", [kind])
        return [self._asset(row) for row in rows]

    def resolve(self, ref: str, kind: str) -> Asset:
        """Return the asset a reference means: id or unique prefix, `name` (newest), `name:3`, or `name@alias`.

        Raises:
            UnknownName: no such name; the hint offers near ones.
            NotFound: no such id, number or alias, or a prefix that fits several.
        """
        if "@" in ref:
            name, _, alias = ref.partition("@")
            release = self.release(alias)
            ident = {"version": release.version, "candidate": release.candidate}.get(kind, release.certificate)
            asset = self.resolve(ident, kind)
            if name and asset.name != name:
                raise NotFound(f"alias `{alias}` points at `{asset.name}`, not `{name}`", hint=f"say `@{alias}`")
            return asset
        name, _, number = ref.partition(":")
        if number.isdigit() and not ref.startswith("sha256:"):
            rows = self.store.query(
                "SELECT * FROM asset WHERE kind = ? AND name = ? AND number = ?", [kind, name, int(number)]
            )
        else:
            rows = self.store.query("SELECT * FROM asset WHERE kind = ? AND name = ? ORDER BY seq DESC LIMIT 1",
                                    [kind, ref])  # fmt: skip
            rows = rows or self._by_prefix(ref, kind)
        if not rows:
            known = self.store.query("SELECT DISTINCT name FROM asset WHERE kind = ? AND name <> ''", [kind])
            raise UnknownName(kind, ref, [row["name"] for row in known])
        return self._asset(rows[0])

    def get(self, ref: str, record_type: type[R]) -> R:
        """Return the record itself. Raises as `resolve` does, and Tampered when its content does not hash to its id."""
        asset = self.resolve(ref, record_type.KIND)
        known = {item.name for item in fields(record_type)}
        record = record_type(**{key: value for key, value in asset.body.items() if key in known})
        if record.id != asset.id:
            raise Tampered(
                f"{record_type.KIND} `{asset.id}` does not hash to its id", hint="run `hallmark store rebuild`"
            )
        return record

    def _by_prefix(self, ref: str, kind: str) -> list[dict[str, Any]]:
        digits = ref.removeprefix("sha256:")
        if len(digits) < 4 or any(char not in "0123456789abcdef" for char in digits):
            return []
        rows = self.store.query("SELECT * FROM asset WHERE kind = ? AND starts_with(id, ?)", [kind, f"sha256:{digits}"])
        if len(rows) > 1:
            raise NotFound(f"`{ref}` fits {len(rows)} {kind}s", hint="give more digits")
        return rows

    def _asset(self, row: dict[str, Any]) -> Asset:
        edges = self.store.query("SELECT relation, parent FROM edge WHERE child_key = ? AND child = ? ORDER BY seq",
                                 [edge_key(row["id"]), row["id"]])  # fmt: skip
        return Asset(
            row["id"], row["kind"], row["name"], row["number"], row["owner"], row["created"],
            orjson.loads(row["body"]), tuple((edge["relation"], edge["parent"]) for edge in edges),
        )  # fmt: skip

    # ---- principals and callers --------------------------------------------------------------------------------

    def add_principal(
        self, name: str, role: str, public: str, *, signer: str, passphrase: bytes | None = None
    ) -> Principal:
        """Register a key holder in a role, vouched for by an operator's signature."""
        return principals.add(self, name, role, public, signer=signer, passphrase=passphrase)

    def principals(self) -> dict[str, Principal]:
        """Return principals by key id, each vouched for by a chain of operators' signatures from the root key.

        Raises Refused or Tampered when an entry of the journal claims a principal that no operator vouched for.
        """
        return principals.principals(self)

    def principal(self, name: str) -> Principal:
        """Return a principal by name. Raises UnknownName, or Refused when its key was revoked."""
        return principals.principal(self, name)

    def callers(self) -> list[dict[str, Any]]:
        """Return the endpoint's callers: name, groups, attributes, key_id and key_hash; revoked ones are left out.

        Raises Tampered or Refused when an operator signed one of their events not, or not so.
        """
        events = [*seals.sealed(self, "caller.created"), *seals.sealed(self, "caller.revoked")]
        found: dict[str, dict[str, Any]] = {}
        for event in sorted(events, key=lambda event: event.seq):
            if event.kind == "caller.revoked":
                found.pop(event.subject, None)
            else:
                found[event.subject] = {"name": event.subject, **event.body}
        return list(found.values())

    # ---- aliases and scratch -----------------------------------------------------------------------------------

    def release(self, alias: str) -> Release:
        """Return what an alias points at, from its pointer file. Raises NotFound, SpecError (name), Tampered."""
        path = self.pointer(alias)
        try:
            data = path.read_bytes()
            if not data:
                raise NotFound(f"pointer file `{path}` is empty", hint="`hallmark release settle` makes it again")
            return Release(**orjson.loads(data))
        except FileNotFoundError:
            known = sorted(found.stem for found in (self.root / "releases").glob("*.json"))
            raise UnknownName("alias", alias, known, hint=None if known else "nothing was promoted yet") from None
        except (orjson.JSONDecodeError, TypeError):
            raise Tampered(f"pointer file `{path}` is damaged", hint=f"run `hallmark rollback {alias}`") from None

    def point(self, release: Release) -> None:
        """Replace the pointer file of an alias, atomically; the move in the journal is what is durable."""
        data = orjson.dumps(plain(release), option=orjson.OPT_INDENT_2)
        replace_file(self.pointer(release.alias), data, durable=False)

    def pointer(self, alias: str) -> Path:
        """Return where the pointer file of an alias lies. Raises SpecError for a name that is none."""
        if not alias or not all(char.isalnum() or char in "-_" for char in alias):
            raise SpecError(f"`{alias}` is not an alias", hint="use letters, digits, `-` and `_`")
        return self.root / "releases" / f"{alias}.json"

    def work(self, *parts: str) -> Path:
        """Return (and make) a scratch folder that survives the process, `work/<parts>`; `:` becomes `-`."""
        path = self.root.joinpath("work", *(part.replace(":", "-").replace("/", "_") for part in parts))
        path.mkdir(parents=True, exist_ok=True)
        return path


def file_digest(path: Path) -> str:
    """Return `sha256:<hex>` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
