"""The documents say what the code does: the reference is generated, commands parse, links and named tests exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from governance import reference
from governance.cli.main import cli
from governance.schemas import SPECS

ROOT = Path(__file__).parents[2]
PAGES = sorted({*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", ROOT / "CHANGELOG.md"})
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands_in(name):
    """Commands of shell blocks, and of the `run:` and `script:` lines of CI files."""
    blocks = re.findall(r"```(?:sh|console|bash|yaml)\n(.*?)```", text_of(name), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    bare = [re.sub(r"^(?:\$ |- run: |run: |- |if |! )+", "", line) for line in lines]
    return [line for line in bare if line.startswith("hallmark ")]


COMMANDS = sorted({(name, line) for name in NAMES for line in commands_in(name)})


def test_the_reference_is_what_the_code_says():
    assert reference.differing(ROOT / "docs") == [], "run `make docs`"


def test_check_names_what_differs_and_exits_1(tmp_path):
    assert len(reference.write(tmp_path)) == 2 + len(SPECS)
    assert reference.write(tmp_path) == []
    (tmp_path / "cli.md").write_text("old\n")
    (tmp_path / "schemas" / "gone.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "governance.reference", str(tmp_path), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert [line.split("/")[-1] for line in done.stdout.splitlines()] == ["cli.md", "gone.json"]
    assert sorted(reference.write(tmp_path)) == ["cli.md", "schemas/gone.json"]
    assert not (tmp_path / "schemas" / "gone.json").exists()


def test_every_command_has_a_section():
    page = text_of("docs/cli.md")
    known = dict(reference.commands())
    assert re.findall(r"^## (hallmark .+)$", page, re.MULTILINE) == list(known)


@pytest.mark.parametrize("name", list(SPECS))
def test_a_schema_file_is_a_json_schema(name):
    schema = json.loads(text_of(f"docs/schemas/{name}.json"))
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[f"{name}-{line}" for name, line in COMMANDS])
def test_commands_in_the_documents_parse(name, line):
    words = shlex.split(re.split(r" (?:[|>#]|2>|\|\||&&) ?", line)[0], comments=True)[1:]
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    assert isinstance(command, click.Group) is (command is cli), f"`{line}` stops at a group"
    if command is not cli:
        command.make_parser(click.Context(command)).parse_args(list(words))
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.required:
                assert given & set(parameter.opts), f"`{line}` lacks {parameter.opts[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name):
    for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)(?:#[^)]*)?\)", text_of(name)):
        assert ((ROOT / name).parent / link).exists(), link


@pytest.mark.parametrize("name", NAMES)
def test_files_and_tests_that_are_named_exist(name):
    """`tests/...py::test_name` and every other backticked path of this repository."""
    text = text_of(name)
    for path, test in re.findall(r"`((?:tests|examples|benchmarks|docs|locks)/[\w/.-]+)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in text_of(path), f"{path}::{test}"
    for path in re.findall(r"`((?:governance|evals|training|policies|registry|reports)/[\w/-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
