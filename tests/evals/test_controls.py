"""The endpoint that control runs ask: one answer to everything, over real HTTP."""

import asyncio

import pytest

from evals.controls import PLANTED, ConstantEndpoint, control_results, find_control
from evals.harness.provider import Client
from evals.samples import Row, encode
from registry.records import EvalRun


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


def run_of(ws, control, kpi, instrument, value):
    blob = ws.artifacts.add_bytes(encode([Row("a", kpi, 0, value, 1.0, "c")]))
    record = EvalRun(
        candidate="sha256:c", suite="sha256:s", instruments={kpi: instrument}, results=blob, planned={kpi: 1},
        completed={kpi: 1}, errors={kpi: 0}, target={kpi: "weights"}, harness={kpi: "lm-eval"}, control=control,
    )  # fmt: skip
    return ws.register(record, actor="operator")


@pytest.fixture
def instrument():
    from types import SimpleNamespace

    return lambda kpi, digest: SimpleNamespace(kpi=SimpleNamespace(id=kpi), digest=digest)


def test_only_a_control_with_this_very_instrument_counts(ws, instrument):
    run_of(ws, "", "a", "one", 1.0)
    run = run_of(ws, "null_model", "a", "one", 0.0)
    assert find_control(ws, "null_model", instrument("a", "one")).id == run.id
    assert find_control(ws, "null_model", instrument("a", "two")) is None
    assert find_control(ws, "planted_violator", instrument("a", "one")) is None
    newer = run_of(ws, "null_model", "a", "one", 0.5)
    assert find_control(ws, "null_model", instrument("a", "one")).id == newer.id


def test_runs_of_one_control_are_merged_for_the_gate(ws):
    runs = {
        "a": run_of(ws, "null_model", "a", "one", 0.0),
        "b": run_of(ws, "null_model", "b", "two", 0.5),
        "c": run_of(ws, "planted_violator", "c", "three", 1.0),
    }
    found = control_results(ws, runs)
    assert {name: set(control.results.kpis) for name, control in found.items()} == {
        "null_model": {"a", "b"},
        "planted_violator": {"c"},
    }
    assert found["null_model"].results.kpis["b"].instrument == "two"
