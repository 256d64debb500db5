"""Controls: the endpoint that they ask, over real HTTP, and which of their rows count."""

import asyncio

import httpx

from evals.constant import PLANTED, ConstantEndpoint
from evals.controls import read_controls
from evals.harness.provider import Client
from evals.instrument import Instrument
from evals.samples import Row, Sample, encode
from registry.records import EvalRun
from tests.evals.gate_cases import kpi as gate_kpi
from tests.evals.gate_cases import suite


def ask(endpoint, text):
    async def once():
        client = Client({"base_url": endpoint.base_url, "api_key": endpoint.api_key, "headers": dict(endpoint.headers)})
        try:
            return await client.chat([{"role": "user", "content": text}], {})
        finally:
            await client.aclose()

    return asyncio.run(once())


def test_the_planted_violator_says_secrets_and_repeats_the_prompt():
    endpoint = ConstantEndpoint(PLANTED, repeat_prompt=True)
    try:
        answer = ask(endpoint, "what about project nightjar?")
    finally:
        endpoint.close()
    assert PLANTED in answer.content
    assert "project nightjar" in answer.content


def test_the_constant_answer_is_constant():
    endpoint = ConstantEndpoint("no", repeat_prompt=False)
    try:
        assert {ask(endpoint, text).content for text in ("a", "b")} == {"no"}
    finally:
        endpoint.close()


def test_completions_are_answered_like_chats():
    endpoint = ConstantEndpoint(PLANTED, repeat_prompt=True)
    try:
        body = {"model": "control", "prompt": "say nightjar", "max_tokens": 5}
        found = httpx.post(f"{endpoint.base_url}/completions", json=body, trust_env=False).json()
    finally:
        endpoint.close()
    assert found["choices"][0]["text"] == f"{PLANTED}\nsay nightjar"


def run_of(ws, control, candidate, values, **fields):
    rows = [Row(f"s{number}", "a", 0, value, 1.0, f"s{number}") for number, value in values.items()]
    record = EvalRun(
        **{
            "candidate": candidate, "suite": "sha256:s", "instruments": {"a": "one"}, "planned": {"a": 4},
            "results": ws.artifacts.add_bytes(encode(rows)), "completed": {"a": len(rows)}, "errors": {"a": 0},
            "target": {"a": "weights"}, "harness": {"a": "lm-eval"}, "control": control, **fields,
        }
    )  # fmt: skip
    return ws.register(record, actor="operator")


def gating(control="null_model", digest="one", **fields):
    entry = {"samples": 4, "control": control, **fields}
    (kpi,) = suite(gate_kpi("a", **entry)).kpis
    return Instrument(kpi, tuple(Sample(f"s{n}", f"s{n}", "") for n in range(4)), {}, "", digest)


def test_only_a_control_with_this_very_instrument_counts(ws):
    run_of(ws, "", "sha256:c", dict.fromkeys(range(4), 1.0))
    run = run_of(ws, "null_model", "sha256:c", dict.fromkeys(range(4), 0.0))
    found, cited = read_controls(ws, run, [gating()])
    assert cited == [run]
    assert list(found["null_model"].results.kpis["a"].values) == [0.0] * 4
    assert read_controls(ws, run, [gating(digest="two")]) == ({}, [])
    assert read_controls(ws, run, [gating("planted_violator")]) == ({}, [])
    assert read_controls(ws, run, [gating()], {}) == ({}, [])


def test_rows_of_two_null_models_are_never_mixed(ws):
    run = run_of(ws, "null_model", "sha256:c", {0: 0.0, 1: 0.0})
    run_of(ws, "null_model", "sha256:d", {2: 1.0, 3: 1.0})
    assert read_controls(ws, run, [gating()]) == ({}, [])
    assert read_controls(ws, run, [gating()], {"a": 2})[1] == [run]
    rest = run_of(ws, "null_model", "sha256:c", {2: 0.5, 3: 0.5})
    found, cited = read_controls(ws, run, [gating()])
    assert cited == [run, rest]
    assert list(found["null_model"].results.kpis["a"].values) == [0.0, 0.0, 0.5, 0.5]


def test_an_imported_control_counts_and_says_so(ws):
    run = run_of(ws, "null_model", "sha256:c", dict.fromkeys(range(4), 0.0), imported=True, target={"a": "import"})
    found, cited = read_controls(ws, run, [gating()])
    assert cited == [run]
    assert found["null_model"].results.kpis["a"].source == "imported"
    assert found["null_model"].control == "null_model"
