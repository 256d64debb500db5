"""Writes the reference from the code: every command with its options, and a JSON Schema for every spec.

python -P -m governance.reference docs            writes docs/cli.md, docs/files.md and docs/schemas/<name>.json
python -P -m governance.reference docs --check    writes nothing; exit 1 names the files that differ
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from governance.cli.main import COMMANDS, cli
from governance.schemas import SPECS, json_schema

PACKAGES = ("registry", "training", "evals", "policies", "reports", "governance")
COMMON = ("--json", "--workspace", "--as", "--passphrase-file")
"""Options that every command has: described once, on top of the page."""
HEAD = """\
# The command line

Written from the code by `make docs`; a test fails when the two differ.

Exit codes: 0 yes; 1 no (gate failed, denied, tampered, drift); 2 could not decide (usage, bad spec, crash);
3 not yet (inconclusive, awaiting approval). `gate` exits 2 for INVALID. Results go to stdout, all else to stderr.

A reference is an id (`sha256:...`), a unique prefix of four or more digits, `name` (the newest), `name:3`, or
`name@alias`.

Every command takes these, after its name:

"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield (`hallmark noun verb`, command) for every command that does something, in the order of the table."""
    for name in COMMANDS:
        found = cli.get_command(click.Context(cli), name)
        if isinstance(found, click.Group):
            yield from ((f"hallmark {name} {sub}", command) for sub, command in found.commands.items())
        elif found is not None:
            yield f"hallmark {name}", found


def command_page() -> str:
    """Return docs/cli.md."""
    known = dict(commands())
    first = next(iter(known.values()))
    shared = [option for option in _options(first) if set(option.opts) & set(COMMON)]
    parts = [HEAD + _table(shared)]
    parts += [_section(name, command) for name, command in known.items()]
    return "\n".join(parts)


def file_page() -> str:
    """Return docs/files.md: every module with the first sentence of its docstring."""
    root = Path(__file__).parent.parent
    parts = ["# Every file, in its own words\n\nWritten from the modules' first sentences by `make docs`.\n"]
    for package in PACKAGES:
        parts.append(f"\n## {package}/\n\n| file | what it is for |\n|---|---|\n")
        for path in sorted((root / package).rglob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if text:
                sentence = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
                parts.append(f"| `{path.relative_to(root).as_posix()}` | {sentence} |\n")
    return "".join(parts)


def schema_page(name: str) -> str:
    """Return the JSON Schema of a spec as the text of its file."""
    return json.dumps(json_schema(name), indent=2, sort_keys=True) + "\n"


def pages() -> dict[str, str]:
    """Return every generated file: path below the documents' folder to text."""
    return {
        "cli.md": command_page(),
        "files.md": file_page(),
        **{f"schemas/{name}.json": schema_page(name) for name in sorted(SPECS)},
    }


def differing(folder: Path) -> list[str]:
    """Return the generated files that are missing or differ, and schemas of specs that do not exist any more."""
    wanted = pages()
    found = [
        name for name, text in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]  # fmt: skip
    left = [f"schemas/{path.name}" for path in sorted((folder / "schemas").glob("*.json"))]
    return found + [name for name in left if name not in wanted]


def write(folder: Path) -> list[str]:
    """Write every file that differs, remove schemas that are no more; return their names."""
    changed, wanted = differing(folder), pages()
    for name in changed:
        path = folder / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return changed


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context)[1:])
    text, _, example = (command.help or "").partition("Example")
    lines = [line.strip() for line in example.partition(":")[2].splitlines() if line.strip()]
    said = " ".join(text.split())
    own = [option for option in _options(command) if not set(option.opts) & set(COMMON)]
    block = "\n".join(lines)
    shown = f"`{name} {usage}`" if usage else f"`{name}`"
    out = f"## {name}\n\n{shown}\n\n{said}\n\n```sh\n{block}\n```\n"
    return out + ("\n" + _table(own) if own else "")


def _options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def _table(options: list[click.Option]) -> str:
    rows = "".join(f"| {_spelled(option)} | {_meaning(option)} |\n" for option in options)
    return f"| option | meaning |\n|---|---|\n{rows}"


def _spelled(option: click.Option) -> str:
    names = "/".join([*sorted(option.opts, key=len), *option.secondary_opts])
    if option.is_flag:
        return f"`{names}`"
    kind = option.type
    value = "\\|".join(str(choice) for choice in kind.choices) if isinstance(kind, click.Choice) else ""
    return f"`{names} {value or option.metavar or kind.name.upper()}`"


def _meaning(option: click.Option) -> str:
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    if option.required:
        return f"{text} Required.".strip()
    shown = option.show_default and option.default is not None and not option.is_flag
    return f"{text} Default: `{option.default}`.".strip() if shown else text


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file differs.")
def main(folder: Path, check: bool) -> None:
    """Write the reference below FOLDER."""
    changed = differing(folder) if check else write(folder)
    for name in changed:
        click.echo(f"{'differs' if check else 'wrote'}  {folder / name}")
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
