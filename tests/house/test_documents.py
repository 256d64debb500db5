"""The documents say what is: every feature is mapped, every test and file named exists, README's commands parse."""

import re
import shlex
from pathlib import Path

import click
import pytest

from governance.cli.main import cli

ROOT = Path(__file__).parents[2]
COVERAGE = ROOT / "docs" / "coverage.md"
ROWS = [line for line in COVERAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| F\d+ ", line)]
FEATURES = [f"F{n}" for n in (*range(1, 30), *range(30, 39), *range(40, 49), *range(50, 58), *range(60, 70))]


def test_every_feature_has_one_row():
    named = [re.match(r"\| (F\d+) ", row).group(1) for row in ROWS]
    assert named == FEATURES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_tests_that_exist_or_says_not_yet(row):
    _, feature, _, state, proof, *_ = [cell.strip() for cell in row.split("|")]
    assert state in {"yes", "partly", "not yet"}, feature
    paths = re.findall(r"`((?:tests|examples|benchmarks)/[\w/.-]+)(?:::(\w+))?`", proof)
    if state == "not yet":
        assert not paths
        return
    assert paths, f"{feature} names no test"
    for path, test in paths:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test


def commands_in(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line.split(" #")[0] for line in lines if line.startswith("hallmark ")]


@pytest.mark.parametrize("line", sorted({*commands_in("README.md"), *commands_in("AGENTS.md")}))
def test_commands_in_the_documents_parse(line):
    words = shlex.split(line.split(" > ")[0])[1:]
    context, command = click.Context(cli), cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    if not isinstance(command, click.Group):
        command.make_parser(click.Context(command)).parse_args([word for word in words if word != "..."])


def test_readme_shows_the_two_commands_early_and_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "```" in "\n".join(text.splitlines()[:20])
    assert "make demo" in text
    assert "make test" in text
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / link).exists(), link
