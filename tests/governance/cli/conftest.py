"""Command lines run in this process, in a workspace of the test's own."""

import pytest

from governance.cli.app import run
from governance.cli.main import cli


@pytest.fixture
def hallmark(ws, capsys):
    """Run a command line in the workspace; return exit code, standard output and standard error."""

    def call(*words):
        code = run(cli, [*words, "--workspace", str(ws.root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
