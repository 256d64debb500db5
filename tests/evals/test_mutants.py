"""Break each line of the decision rule, one at a time: a test of the gate must go red."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evals.mutants import JUDGING
from tests.evals.mutants_grounds import GROUNDS

MUTANTS = (*JUDGING, *GROUNDS)
REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "evals"


def text_of(mutant):
    return (PACKAGE / mutant.file).read_text()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the named tests say of the untouched copy (first) and of every mutant."""
    folder = tmp_path_factory.mktemp("mutants")
    jobs = [[str(copy(folder / "untouched")), sorted({name for mutant in MUTANTS for name in mutant.red})]]
    for number, mutant in enumerate(MUTANTS):
        root = copy(folder / str(number))
        (root / "evals" / mutant.file).write_text(text_of(mutant).replace(mutant.text, mutant.wrong))
        jobs.append([str(root), list(mutant.red)])
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("mutant_child.py")), str(folder / "jobs.json")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def copy(root):
    shutil.copytree(PACKAGE, root / "evals", ignore=shutil.ignore_patterns("children", "drift"))
    return root


def test_every_listed_line_stands_in_the_source_once():
    assert [mutant.rule for mutant in MUTANTS if text_of(mutant).count(mutant.text) != 1] == []
    assert len({(mutant.file, mutant.text) for mutant in MUTANTS}) == len(MUTANTS) > 60


@pytest.mark.slow
def test_the_untouched_copy_is_green(outcomes):
    assert outcomes[0] == ""


@pytest.mark.slow
def test_every_mutant_makes_a_test_red(outcomes):
    survivors = [mutant.rule for mutant, said in zip(MUTANTS, outcomes[1:], strict=True) if not said]
    broken = [(mutant.rule, said) for mutant, said in zip(MUTANTS, outcomes[1:], strict=True) if said[:7] == "broken:"]
    assert (survivors, broken) == ([], [])
