"""`hallmark init`, `doctor`, `config` and `schema`."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--example", type=click.Choice(["quickstart"]), help="Copy an example's specs into the workspace.")
@command
def init(session: Session, folder: Path, example: str | None) -> None:
    """Make a workspace with a key for every role.

    Example: hallmark init factory --example quickstart
    """
    from governance.setup import copy_example, create_workspace

    ws = create_workspace(folder, session.passphrase)
    copied = copy_example(example, ws.root) if example else []
    principals = [{"name": p.name, "role": p.role, "keyid": p.keyid} for p in ws.principals().values()]
    session.emit(
        {"root": str(ws.root), "workspace": ws.settings.workspace_id, "principals": principals, "copied": copied},
        [
            f"workspace {ws.root}",
            f"root key  {ws.settings.workspace_id}",
            *[f"  {p['name']:<14} {p['role']}" for p in principals],
            *[f"  copied {name}" for name in copied],
        ],
    )
    session.say(
        "note: one account holds all these keys now, so one person can train, judge, approve and promote alone.\n"
        "      Separation of duties needs key holders of their own: `hallmark key rotate approver --public FILE.pem`\n"
        "      puts a key that was made elsewhere in the place of one made here; `hallmark doctor` says where you are."
    )


@click.command()
@command
def doctor(session: Session) -> None:
    """Check this machine and the workspace; exit 1 when something is wrong.

    Example: hallmark doctor
    """
    from governance.doctor import examine

    checks = examine(session)
    session.emit(
        checks, [f"{'ok ' if check['ok'] else 'BAD'}  {check['name']:<22} {check['found']}" for check in checks]
    )
    session.exit(0 if all(check["ok"] for check in checks) else 1)


@click.command()
@command
def config(session: Session) -> None:
    """Print every setting, its value and where it came from.

    Example: hallmark config
    """
    settings = session.ws.settings
    rows = {name: {"value": value, "source": settings.sources[name]} for name, value in settings.values.items()}
    session.emit(rows, [f"{name:<18} {row['value'] or '-':<14} {row['source']}" for name, row in rows.items()])


@click.command()
@click.argument("name", metavar="NAME")
@command
def schema(session: Session, name: str) -> None:
    """Print the JSON Schema of a spec: data, recipe, suite, bundle or pipeline.

    Example: hallmark schema suite > suite.schema.json
    """
    from governance.schemas import json_schema

    import orjson  # isort: skip

    document = json_schema(name)
    session.emit(document, orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
