"""A new workspace: root operator, one key per role, the platform policy, the default inference policy."""

from __future__ import annotations

from pathlib import Path

from governance import platform, roles
from governance.candidates import activate_policy
from registry import principals
from registry.artifacts import replace_file
from registry.errors import NotFound, Refused
from registry.identity import check_name, keyid_of
from registry.settings import FILE
from registry.signers import ExternalSigner
from registry.workspace import Workspace

STARTING_ROLES = ("trainer", "evaluator", "approver", "policy-author", "auditor")


def create_workspace(root: Path, passphrase: bytes | None = None) -> Workspace:
    """Return a new workspace with one principal per role, each with a key of its own.

    A run that was killed half-way is finished by the next. Raises Refused when the workspace is complete already.
    """
    if (root / FILE).exists():
        ws = Workspace.open(root)
        if ws.store.query("SELECT 1 AS one FROM event WHERE kind = 'workspace.created'"):
            raise Refused(f"`{root}` is a workspace already", hint="name another folder")
        if not ws.principals():
            ws.keys.passphrase = passphrase
            public = ws.keys.load("operator").public
            ws.add_principal("operator", "operator", public, signer="operator", passphrase=passphrase)
    else:
        ws = Workspace.create(root, passphrase)
    ws.keys.passphrase = passphrase
    known = {principal.name for principal in ws.principals().values()}
    for role in STARTING_ROLES:
        if role not in known:
            add_key(ws, role, role, signer="operator", passphrase=passphrase, new_passphrase=passphrase)
    lines = [f'{role} = "{role}"' for role in ("operator", *STARTING_ROLES)]
    text = (ws.root / FILE).read_text(encoding="utf-8")
    replace_file(ws.root / FILE, (text.split("[principals]")[0] + PRINCIPALS + "\n".join(lines) + "\n").encode())
    ws.close()
    ws = Workspace.open(root)
    ws.keys.passphrase = passphrase
    platform.install(ws, actor="operator")
    activate_policy(ws, default_bundle(), actor="policy-author")
    ws.record("workspace.created", ws.settings.workspace_id, {"name": ws.root.name}, actor="operator")
    return ws


PRINCIPALS = "[principals]  # who acts in each role unless `--as` says otherwise\n"


def add_key(
    ws: Workspace, name: str, role: str, *, signer: str, passphrase: bytes | None = None,
    new_passphrase: bytes | None = None, algorithm: str = "ed25519", public: str | None = None,
) -> str:  # fmt: skip
    """Register a principal in a role; return the key id.

    Its key is `public` (hex), whose private half never comes here; else that of its external signer in `[signers]`;
    else a new one of the `algorithm`, encrypted with `new_passphrase`. `passphrase` opens the key of `signer`.
    """
    roles.check_role(role)
    known = {p.name for p in ws.principals().values()}
    if name in known:
        raise Refused(f"a principal named `{name}` exists", hint="choose another name, or `hallmark key rotate`")
    if public is None:
        check_name(name)
        if ws.keys.holds(name):  # an external signer, or a crash came between the key and its registration
            public = ws.keys.load(name, new_passphrase).public
        else:
            public = ws.keys.create(name, new_passphrase, algorithm).public
    return ws.add_principal(name, role, public, signer=signer, passphrase=passphrase).keyid


def rotate_key(
    ws: Workspace, name: str, *, signer: str, passphrase: bytes | None = None, new_passphrase: bytes | None = None,
    algorithm: str = "ed25519", public: str | None = None,
) -> str:  # fmt: skip
    """Give a principal a new key, found as in `add_key`; return the new key id. A run that was killed is finished."""
    old = ws.principal(name)
    if public is None and name in ws.keys.commands:
        public = ExternalSigner(name, ws.keys.commands[name], folder=ws.root).public
    if public is not None:
        if keyid_of(public) != old.keyid:
            principals.rotate(ws, name, public, signer=signer, passphrase=passphrase)
        ws.keys.retire(name)
        return keyid_of(public)
    staged = ws.keys.stage(name, new_passphrase, algorithm)
    if staged.keyid != old.keyid:
        principals.rotate(ws, name, staged.public, signer=signer, passphrase=passphrase)
    ws.keys.adopt(name)
    return staged.keyid


def copy_example(name: str, root: Path) -> list[str]:
    """Copy an example's specs into a workspace's `specs/`; return the files' names, existing ones untouched.

    Raises NotFound where Hallmark was installed without its examples.
    """
    source = Path(__file__).parent.parent / "examples" / name
    if not source.is_dir():
        raise NotFound(f"example `{name}` is not installed", hint="it lies in `examples/` of the source repository")
    copied = []
    for path in sorted(source.rglob("*")):
        target = root / "specs" / path.relative_to(source)
        if path.is_file() and path.name != "run.py" and "__pycache__" not in path.parts and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            copied.append(str(target.relative_to(root)))
    return copied


def default_bundle() -> Path:
    """Return the folder of the inference policy that ships with Hallmark."""
    import policies

    return Path(policies.__file__).parent / "bundles" / "default"
