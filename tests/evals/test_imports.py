"""Importing another harness's rows: valid and complete, or nothing is stored."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.imports import import_rows
from evals.incoming import COLUMNS, foreign_id
from evals.samples import decode, read_results
from evals.suite import SuiteSpec
from registry import specs
from registry.errors import HallmarkError, NotFound, Refused, SpecError, UnknownName
from registry.records import Candidate, EvalRun
from tests.evals.import_cases import LEAKS, QUALITY, SUITE, changed


@pytest.fixture
def suite(tmp_path):
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "own.jsonl").write_text('{"input": "2 + 2 =", "target": "4"}\n')
    path = folder / "suite.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def candidates(ws):
    """Two candidates without files: nothing runs them."""
    return [
        ws.register(
            Candidate(version="sha256:" + mark * 64, weights="w", tokenizer="t", template="", system_prompt="",
                      generation={}, engine="transformers", engine_version="5", quantisation="none", bundle="b"),
            actor="operator", name="theirs",
        ).id
        for mark in "ab"
    ]  # fmt: skip


@pytest.fixture
def bring(ws, suite, candidates, tmp_path):
    """A function that writes rows to a file and imports it."""

    def bring(rows, *, candidate=0, name="rows.jsonl", **more):
        file = tmp_path / name
        if isinstance(rows, bytes):
            file.write_bytes(rows)
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return import_rows(ws, candidates[candidate], suite, file, actor="operator", **more)

    return bring


def test_an_import_is_an_eval_run_that_says_so(ws, bring):
    asset = bring(QUALITY + LEAKS)
    run = ws.get(asset.id, EvalRun)
    assert run.imported is True
    assert run.target == {"quality": "import", "leaks": "import"}
    assert run.harness == {"quality": "theirs@1.2", "leaks": "theirs@1.2"}
    assert run.planned == run.completed == {"quality": 3, "leaks": 2}
    results = read_results(ws, asset.id)
    assert sorted(results.kpis["quality"].values) == [0.0, 0.5, 1.0]
    assert set(results.kpis["leaks"].slices["language"]) == {"de"}
    assert set(results.kpis["leaks"].clusters) == {"c0", "c1"}


def test_every_column_arrives(ws, bring):
    row = {"sample": "ab" * 16, "kpi": "quality", "value": 0.5, "weight": 4.0, "cluster": "c", "output": "they said",
           "slices": {"a": "b", "n": 1}, "latency_ms": 3.5, "prompt_tokens": 7, "completion_tokens": 8,
           "scorer": "s", "input": "asked", "target": "wanted"}  # fmt: skip
    failed = {"sample": 9, "kpi": "quality", "error": "it died", "epoch": 0, "scorer": "s"}
    assert row.keys() | failed.keys() == set(COLUMNS)
    asset = bring([row, failed, {"sample": "x", "kpi": "quality", "value": True, "scorer": "s"}])
    rows = {found.sample_id: found for found in decode(ws.artifacts.read_bytes(asset.body["results"]))}
    found, bad = rows["ab" * 16], rows[foreign_id("9")]
    assert (found.value, found.weight, found.cluster, found.output) == (0.5, 4.0, "c", "they said")
    assert (found.latency_ms, found.prompt_tokens, found.completion_tokens, found.scorer) == (3.5, 7, 8, "s")
    assert json.loads(found.slices) == {"a": "b", "n": "1"}
    assert json.loads(found.detail) == {"input": "asked", "target": "wanted"}
    assert (bad.error, math.isnan(bad.value), bad.cluster) == ("it died", True, foreign_id("9"))
    assert asset.body["errors"] == {"quality": 1}


def test_parquet_and_jsonl_give_the_same_run(bring):
    assert bring(QUALITY).id == bring(QUALITY, name="rows.parquet").id == bring(QUALITY[::-1]).id


@pytest.mark.parametrize("rows", [changed(QUALITY, 2, value=math.nan), QUALITY[:2], QUALITY + LEAKS[:3]])
def test_nothing_of_a_wrong_file_is_stored(ws, bring, rows):
    with pytest.raises(SpecError):
        bring(rows)
    assert ws.assets(EvalRun.KIND) == []


def test_files_and_names_that_are_not_there(ws, suite, candidates, bring, tmp_path):
    with pytest.raises(NotFound):
        import_rows(ws, candidates[0], suite, tmp_path / "none.jsonl", actor="operator")
    with pytest.raises(NotFound):
        import_rows(ws, candidates[0], suite, tmp_path, actor="operator")
    with pytest.raises(SpecError, match="not a Parquet file"):
        bring(b"nothing", name="rows.parquet")
    with pytest.raises(UnknownName):
        bring(QUALITY, control="nul_model")
    with pytest.raises(UnknownName):
        bring(QUALITY, form="excel")


def test_other_values_for_the_same_candidate_are_refused(bring):
    bring(QUALITY)
    with pytest.raises(Refused, match="was imported before"):
        bring(changed(QUALITY, 0, value=1.0))
    assert bring(changed(QUALITY, 0, value=1.0), candidate=1).body["imported"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (changed(QUALITY, 0, sample="q9"), "1 samples are missing and 1 are new"),
        (changed(QUALITY, 0, cluster="c"), "`cluster` is 'c'"),
        (changed(QUALITY, 0, weight=2), "`weight` is 2.0 and was 1.0"),
        ([{**row, "scorer": "new"} for row in QUALITY], "`scorer` is 'new'"),
    ],
    ids=["sample", "cluster", "weight", "scorer"],
)
def test_a_second_candidate_must_have_the_samples_of_the_first(ws, bring, rows, said):
    bring(QUALITY)
    with pytest.raises(SpecError) as caught:
        bring(rows, candidate=1)
    assert said in caught.value.message
    assert "task" in caught.value.hint
    assert len(ws.assets(EvalRun.KIND)) == 1


def test_a_new_version_of_the_other_harness_starts_afresh(bring, suite):
    first = bring(QUALITY)
    suite.write_text(SUITE.replace("theirs@1.2", "theirs@2", 1))
    second = bring(changed(QUALITY, 0, sample="q9"))
    assert second.body["instruments"]["quality"] != first.body["instruments"]["quality"]


def test_a_control_is_imported_for_the_kpis_that_name_it(ws, bring):
    control = bring(QUALITY, control="null_model")
    assert read_results(ws, control.id).candidate == "null_model"
    assert bring(changed(QUALITY, 0, value=1.0)).body["control"] == ""
    with pytest.raises(SpecError, match="has the control `planted_violator`, not `null_model`"):
        bring(LEAKS, control="null_model")


def test_the_gate_reads_imported_rows_as_imported(ws, bring, suite, candidates):
    from evals.controls import read_controls
    from evals.evaluate import open_suite
    from evals.gate import decide
    from evals.reading import read

    suite.write_text(SUITE[: SUITE.index("  - {id: leaks")].replace("samples: 3", "range: [0, 1], samples: 300"))
    rows = [{"sample": f"q{n}", "kpi": "quality", "value": float(n % 10 < 7)} for n in range(300)]
    bring(rows)
    bring(rows, candidate=1)
    bring([{**row, "value": 0.0} for row in rows], control="null_model")
    asset, instruments = open_suite(ws, suite, "operator")
    results, runs = read(ws, asset, instruments, candidates[0])
    baseline, _ = read(ws, asset, instruments, candidates[1])
    controls, _ = read_controls(ws, asset, instruments)
    assert [run.body["imported"] for run in runs] == [True]
    assert results.kpis["quality"].source == "imported"
    decision = decide(specs.load(suite, SuiteSpec), results, baseline, controls=controls)
    assert decision.verdict == "PASS"
    assert [(each.kpi, each.source) for each in decision.kpis] == [("quality", "imported")]


LM_EVAL = [
    {"doc_id": n, "doc": {"question": f"{n} + {n}", "topic": "sums"}, "target": str(2 * n),
     "arguments": {"gen_args_0": {"arg_0": f"Q: {n} + {n}", "arg_1": {"until": ["\n"]}}},
     "resps": [[f" {n}"]], "filtered_resps": [f"{n}"], "filter": "none", "metrics": ["exact_match"],
     "doc_hash": f"{n:064x}", "prompt_hash": "p", "target_hash": "t", "exact_match": float(n % 2)}
    for n in range(3)
]  # fmt: skip


def test_logged_samples_of_lm_eval_are_rows(ws, bring):
    asset = bring(LM_EVAL, form="lm-eval", kpi="quality")
    rows = decode(ws.artifacts.read_bytes(asset.body["results"]))
    assert {row.sample_id for row in rows} == {foreign_id(f"{n:064x}") for n in range(3)}
    one = next(row for row in rows if row.sample_id == foreign_id(f"{1:064x}"))
    assert (one.value, one.output, one.scorer) == (1.0, "1", "exact_match,none")
    assert json.loads(one.detail) == {"input": "Q: 1 + 1", "target": "2"}


def test_a_filter_and_a_metric_of_lm_eval_are_chosen_by_name(ws, bring, suite):
    suite.write_text(SUITE.replace("task: theirs@1.2,", "task: theirs@1.2, metric: 'acc,strict', cluster: topic,", 1))
    twice = [
        {**row, "filter": name, "metrics": ["acc", "f1"], "acc": value, "f1": 0.5}
        for row in LM_EVAL
        for name, value in (("strict", 1.0), ("loose", 0.0))
    ]
    found = read_results(ws, bring(twice, form="lm-eval", kpi="quality").id).kpis["quality"]
    assert list(found.values) == [1.0, 1.0, 1.0]
    assert set(found.clusters) == {"sums"}


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (QUALITY, {"kpi": "quality"}, "not a logged sample"),
        (LM_EVAL, {}, "the suite imports 2 KPIs"),
        ([{**row, "metrics": ["a", "b"]} for row in LM_EVAL], {"kpi": "quality"}, "which metric"),
        ([{**row, "exact_match": [1, 2]} for row in LM_EVAL], {"kpi": "quality"}, "no number `exact_match`"),
        (LM_EVAL, {"kpi": "leaks"}, "no field `case`"),
        (LM_EVAL, {"kpi": "own"}, "unknown imported KPI `own`"),
    ],
)
def test_a_logged_file_that_does_not_fit_is_refused(ws, bring, rows, more, said):
    with pytest.raises(HallmarkError) as caught:
        bring(rows, form="lm-eval", **more)
    assert said in caught.value.message
    assert ws.assets(EvalRun.KIND) == []


@pytest.fixture
def log(tmp_path):
    """A function that writes a log as inspect does, of three samples, two of them right."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

    def log(status="success"):
        spec = EvalSpec(created="2026-01-01T00:00:00+00:00", task="t", dataset=EvalDataset(), model="m",
                        config=EvalConfig())  # fmt: skip
        choice = ChatCompletionChoice(message=ChatMessageAssistant(content="x"))
        samples = [
            EvalSample(
                id=f"q{n}", epoch=1, input=f"say {n}", target=str(n), metadata={"topic": "sums"}, total_time=0.25,
                output=ModelOutput(model="m", choices=[choice]),
                scores={"match": Score(value="C" if n else "I", answer="x")},
                model_usage={"m": ModelUsage(input_tokens=5, output_tokens=2)},
            )
            for n in range(3)
        ]  # fmt: skip
        path = tmp_path / "log.eval"
        write_eval_log(EvalLog(status=status, eval=spec, samples=samples), str(path))
        return path

    return log


@pytest.mark.slow
def test_a_log_of_inspect_is_rows(ws, suite, candidates, log):
    suite.write_text(SUITE.replace("task: theirs@1.2,", "task: theirs@1.2, metric: match, cluster: topic,", 1))
    asset = import_rows(
        ws, candidates[0], suite, log(), actor="operator", form="inspect", kpi="quality"
    )  # fmt: skip
    rows = {row.sample_id: row for row in decode(ws.artifacts.read_bytes(asset.body["results"]))}
    assert {name: row.value for name, row in rows.items()} == {
        foreign_id("q0"): 0.0, foreign_id("q1"): 1.0, foreign_id("q2"): 1.0,
    }  # fmt: skip
    one = rows[foreign_id("q1")]
    assert (one.output, one.cluster, one.latency_ms) == ("x", "sums", 250.0)
    assert (one.prompt_tokens, one.completion_tokens, one.scorer) == (5, 2, "match")
    assert json.loads(one.detail) == {"input": "say 1", "target": "1"}


@pytest.mark.slow
def test_logs_that_are_not_finished_or_not_logs_are_refused(ws, suite, candidates, log, tmp_path):
    def bring(path, metric=""):
        suite.write_text(SUITE.replace("task: theirs@1.2,", f"task: theirs@1.2, metric: '{metric}',", 1))
        with pytest.raises(SpecError) as caught:
            import_rows(ws, candidates[0], suite, path, actor="operator", form="inspect", kpi="quality")
        return caught.value.message

    broken = tmp_path / "broken.eval"
    broken.write_bytes(b"no zip")
    assert "status `error`" in bring(log("error"))
    assert "not a readable log" in bring(broken)
    assert "no score `other`" in bring(log(), "other")
    assert ws.assets(EvalRun.KIND) == []
