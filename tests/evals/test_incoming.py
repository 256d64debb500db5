"""Rows of another harness: each one checked, what is wrong named by file and line."""

import json
import math

import pytest

from evals.incoming import Intake, Line, foreign_id, read_lines
from evals.kpi import Kpi
from registry.errors import SpecError
from tests.evals.import_cases import LEAKS, QUALITY, SPEC, changed


@pytest.fixture
def check(tmp_path):
    """A function that reads rows from a file and checks them, as an import does before it stores anything."""

    def check(rows):
        file = tmp_path / "rows.jsonl"
        file.write_bytes(rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode())
        intake = Intake({kpi.id: kpi for kpi in SPEC.kpis})
        for line in read_lines(file):
            intake.take(line)
        return intake.finish(str(file))

    return check


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        (changed(QUALITY, 1, kpi="qualty"), 2, "unknown KPI `qualty`"),
        (changed(QUALITY, 1, kpi="own"), 2, "measured by lm-eval"),
        (changed(QUALITY, 2, sample="q0"), 3, "as line 1"),
        (changed(QUALITY, 0, value=math.nan), 1, "nan is no value"),
        (changed(QUALITY, 0, value=math.inf), 1, "inf is no value"),
        (changed(QUALITY, 0, value=10**400), 1, "inf is no value"),
        (changed(QUALITY, 0, value=None), 1, "no value and no error"),
        (changed(QUALITY, 0, value=...), 1, "no value and no error"),
        (changed(QUALITY, 0, error="died"), 1, "a value and an error"),
        (changed(QUALITY, 0, value="0.5"), 1, "expected a number, found str"),
        (changed(QUALITY, 0, weight=0), 1, "no weight"),
        (changed(QUALITY, 0, weight=-1.0), 1, "no weight"),
        (changed(QUALITY, 0, sample=...), 1, "`sample`: expected text, found nothing"),
        (changed(QUALITY, 0, sample=1.5), 1, "`sample`: expected text, found float"),
        (changed(QUALITY, 0, sample=True), 1, "`sample`: expected text, found bool"),
        (changed(QUALITY, 0, epoch=-1), 1, "expected a count"),
        (changed(QUALITY, 0, epoch="0"), 1, "expected a count"),
        (changed(QUALITY, 0, prompt_tokens=2.5), 1, "expected a count"),
        (changed(QUALITY, 0, latency_ms=-1), 1, "no duration"),
        (changed(QUALITY, 0, wieght=1), 1, "`wieght`: unknown column"),
        (changed(QUALITY, 0, slices=["de"]), 1, "not an object"),
        (changed(QUALITY, 0, output="\ud800"), 1, "lone surrogate"),
        (changed(LEAKS, 1, value=2), 2, "outside [0, 1]"),
        (changed(LEAKS, 1, cluster="other"), 2, "another `cluster` than the same sample has in line 1"),
        (changed(LEAKS, 1, cluster=...), 2, "`cluster`: expected text, found nothing"),
        (changed(LEAKS, 1, slices=...), 2, "`language` is missing"),
        (changed(LEAKS, 1, slices={"language": "fr"}), 2, "another `slices`"),
        (changed(LEAKS, 1, weight=2.0, value=0), 2, "another `weight`"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_by_its_line(check, rows, line, said):
    with pytest.raises(SpecError) as caught:
        check(rows)
    assert said in caught.value.message
    assert f"rows.jsonl:{line}: " in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (QUALITY[:2], "has 2 samples, 3 are planned"),
        ([*QUALITY, {"sample": "q9", "kpi": "quality", "value": 1}], "has 4 samples, 3 are planned"),
        (LEAKS[:3], "has 1 row(s) of sample"),
        (changed(LEAKS, 1, epoch=3), "2 epoch(s) are planned"),
        (QUALITY + LEAKS[:2], "has 1 samples, 2 are planned"),
        (changed(QUALITY, 0, scorer="another"), "2 scorers"),
        ([], "no rows"),
        (b"\n\n", "no rows"),
        (b"[1]\n", "not a JSON object"),
        (b"{\n", "not a JSON object"),
        (b'{"sample": "\xff"}\n', "not UTF-8"),
        (b'{"sample": "a", "kpi": "quality", "value": 0, "value": 1}\n', "given twice"),
        (b"[" * 100_000 + b"\n", "not a JSON object"),
    ],
    ids=["few", "many", "epoch", "gap", "part", "scorers", "none", "blank", "list", "broken", "bytes", "twice", "deep"],
)
def test_an_incomplete_or_unreadable_file_is_refused_whole(check, rows, said):
    with pytest.raises(SpecError) as caught:
        check(rows)
    assert said in caught.value.message
    assert caught.value.hint


def test_epochs_may_count_from_one(check):
    rows = check([{**row, "epoch": row["epoch"] + 1} for row in LEAKS])["leaks"]
    assert sorted(row.epoch for row in rows) == [0, 0, 1, 1]


def test_ids_are_kept_where_they_are_ids_already():
    assert foreign_id("0" * 32) == "0" * 32
    assert foreign_id("AB" * 16) == "ab" * 16
    assert len({foreign_id("0" * 31), foreign_id("1"), foreign_id("01"), "0" * 32}) == 4


def test_an_intake_keeps_what_it_was_given_in_order():
    kpi = Kpi.model_validate({"id": "k", "harness": "import", "task": "t", "samples": 2, "direction": "higher",
                              "rule": {"type": "advisory"}})  # fmt: skip
    intake = Intake({"k": kpi})
    for number in (1, 2):
        intake.take(Line("f", number, {"sample": number, "kpi": "k", "value": number}))
    assert [row.value for row in intake.rows] == [1.0, 2.0]
    assert [row.value for row in intake.finish("f")["k"]] == [1.0, 2.0]
