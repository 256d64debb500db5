"""`hallmark certificate`: what was certified, what still holds, what was revoked."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def certificate() -> None:
    """Certificates: list, show, revocation list, model signatures."""


@certificate.command("list")
@command
def list_(session: Session) -> None:
    """List all certificates, oldest first, each with its state.

    Example: hallmark certificate list
    """
    from governance.standing import standings

    session.actor("read", "certificates")
    found = standings(session.ws)
    lines = [
        f"{one.id[7:19]}  {one.version:<20} {one.state:<8} expires {one.expires[:19]}  {one.why}".rstrip()
        for one in found
    ]
    session.emit(found, lines or ["no certificate was issued yet"])


@certificate.command("show")
@click.argument("ref", metavar="CERTIFICATE")
@command
def show(session: Session, ref: str) -> None:
    """Show what a certificate binds, line by line, and whether it holds.

    Example: hallmark certificate show 4fecaa2b3abd
    """
    from governance.evidence import certificate_of
    from governance.standing import described, standing

    session.actor("read", "certificates")
    asset = certificate_of(session.ws, ref)
    now = standing(session.ws, asset)
    statement, lines = described(session.ws, asset)
    session.emit({"standing": now, "statement": statement}, [f"{now.state}  {now.why}".rstrip(), *lines])


@certificate.command("revocations")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it; default: stdout.")
@command
def revocations(session: Session, out: Path | None) -> None:
    """Sign a list of every revoked certificate and key as of now, for those who check offline.

    Example: hallmark certificate revocations --out revocations.json
    """
    import orjson

    from governance.evidence import revocations as signed
    from governance.roles import require
    from registry.artifacts import replace_file

    ws = session.ws
    actor = require(ws, "revoke", "revocations", session.as_name).name
    envelope = signed(ws, actor)
    text = orjson.dumps(envelope, option=orjson.OPT_INDENT_2)
    if out:
        replace_file(out, text + b"\n")
    session.emit(envelope, f"written to {out}" if out else text.decode())


@certificate.command("sign-weights")
@click.argument("ref", metavar="CERTIFICATE")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Write weights.sigstore.json and weights.pub.pem into this folder.")  # fmt: skip
@command
def sign_weights(session: Session, ref: str, out: Path | None) -> None:
    """Sign a certificate's weights with OpenSSF model signing, so that `model_signing verify key` checks them.

    Example: hallmark certificate sign-weights 4fecaa2b3abd --out signature
    """
    from governance import weights_signing
    from governance.evidence import certificate_of
    from registry.artifacts import replace_file

    ws = session.ws
    asset = certificate_of(ws, ref)
    signed = weights_signing.sign(ws, asset.id, session.as_name, passphrase=session.passphrase)
    lines = [f"weights of certificate {asset.id[7:19]} signed by key {signed.public[:16]}"]
    if out:
        replace_file(out / "weights.sigstore.json", ws.artifacts.read_bytes(signed.signature))
        replace_file(out / "weights.pub.pem", signed.public_pem.encode())
        lines.append(
            f"check them with: model_signing verify key --signature {out}/weights.sigstore.json"
            f" --public_key {out}/weights.pub.pem FOLDER"
        )
    session.emit(signed, lines)
