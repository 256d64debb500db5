"""The metrics page: the figures add up, and Prometheus can read it."""

from __future__ import annotations

import re

import pytest

from policies.endpoint.exchange import Exchange, Served
from policies.endpoint.metrics import FAMILIES, Metrics
from policies.wire.refusal import Refusal

SAMPLE = re.compile(r'hallmark_(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+]+|\+Inf)')


def samples(page: str) -> dict[str, dict[str, float]]:
    """Return the samples of a page by family, after checking each line against the format."""
    assert page.endswith("\n")
    found: dict[str, dict[str, float]] = {}
    family = ""
    for line in page.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2].removeprefix("hallmark_")
            assert family not in found, "a family comes once, in one block"
            found[family] = {}
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE hallmark_{family} {FAMILIES[family][0]}"
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1].startswith(family)
            found[family][match[1] + (match[2] or "")] = float(match[3])
    return found


def test_the_figures_add_up() -> None:
    metrics = Metrics()
    metrics.count("chat", "allow", 200, 0.01)
    metrics.count("chat", "deny", 403, 100.0)
    metrics.count("chat", "deny", 403, 1000.0)
    metrics.tokens(3, 4)
    page = samples(metrics.render().decode())
    assert metrics.decided == 3
    assert page["requests_total"]['requests_totalsurface="chat",action="deny",status="403"'] == 2
    assert page["request_seconds"]['request_seconds_bucketle="+Inf"'] == 3
    assert page["request_seconds"]['request_seconds_bucketle="0.01"'] == 1
    assert page["request_seconds"]["request_seconds_count"] == 3
    assert page["request_seconds"]["request_seconds_sum"] == pytest.approx(1100.01)
    assert page["tokens_total"]['tokens_totalkind="completion"'] == 4


def test_every_family_is_written_as_the_format_wants_it() -> None:
    metrics = Metrics()
    metrics.restarted("a")
    metrics.restarted("a")
    metrics.reloaded("callers", worked=False)
    metrics.expires("a", 1.8e9)
    metrics.gauge("decision_log_lag_seconds", 0.25)
    page = samples(metrics.render().decode())
    assert page["engine_restarts_total"]['engine_restarts_totalmodel="a"'] == 2
    assert page["reloads_total"]['reloads_totaloutcome="failed",what="callers"'] == 1
    assert page["certificate_expires_timestamp_seconds"].popitem()[1] == 1.8e9
    assert page["decision_log_lag_seconds"] == {"decision_log_lag_seconds": 0.25}


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.restarted('a"b\\c\nd')
    page = metrics.render().decode()
    assert r'hallmark_engine_restarts_total{model="a\"b\\c\nd"} 1' in page
    assert samples(page)["engine_restarts_total"]


def test_a_family_that_is_not_declared_is_an_error() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.add("surprises_total")
    with pytest.raises(KeyError):
        metrics.gauge("requests_total", 1)


def test_held_text_is_summed_by_surface() -> None:
    metrics = Metrics()
    for surface, held in (("chat", (0, 3)), ("chat", (5,)), ("responses", (2,)), ("completions", ())):
        exchange = Exchange(surface, Served("prod", "m", "e", "c", "x", "b"))
        for each in held:
            exchange.ledger.look(each)
        metrics.note(exchange, 1)
    assert samples(metrics.render().decode())["held_characters"] == {
        'held_characters_sumsurface="chat"': 8, 'held_characters_countsurface="chat"': 3,
        'held_characters_sumsurface="responses"': 2, 'held_characters_countsurface="responses"': 1,
    }  # fmt: skip


def test_a_refusal_is_counted_by_its_code_and_a_budget_once_more() -> None:
    metrics = Metrics()
    for refusal in (Refusal(429, "rate_limit_exceeded", "slow down"), Refusal(403, "access_denied", "no")):
        exchange = Exchange("chat", Served("prod", "m", "e", "c", "x", "b"))
        exchange.refuse(refusal)
        metrics.note(exchange, 0)
    page = samples(metrics.render().decode())
    assert page["refusals_total"]['refusals_totalcode="rate_limit_exceeded"'] == 1
    assert page["refusals_total"]['refusals_totalcode="access_denied"'] == 1
    assert page["budget_refusals_total"] == {"budget_refusals_total": 1}
