"""One gate decision as SARIF 2.1.0, for code scanning: a result a KPI that holds the candidate back.

The finding is put on the suite's file, since a KPI has no line of code to point at.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reports import phrases
from reports.facts import Decision, Kpi

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(decision: Decision, suite_file: str = "suite.yaml") -> str:
    """Return the decision as a SARIF document; `suite_file` is the relative path findings are put on."""
    held = [kpi for kpi in decision.kpis if not kpi.holds]
    results = [_result(kpi.label, kpi.verdict, phrases.why(kpi), suite_file) for kpi in held]
    if decision.verdict != "PASS":
        reason = "; ".join(decision.reasons) or ", ".join(kpi.label for kpi in held) or "no KPI says why"
        text = f"the candidate {phrases.meaning(decision.verdict)}: {reason}"
        results.insert(0, _result("verdict", decision.verdict, text, suite_file))
    driver = {
        "name": "Hallmark gate",
        "semanticVersion": _version(),
        "rules": [_rule("verdict", "the suite's verdict"), *(_rule(kpi.label, _words(kpi)) for kpi in decision.kpis)],
    }
    run = {
        "tool": {"driver": driver},
        "results": results,
        "columnKind": "unicodeCodePoints",
        "automationDetails": {"id": f"hallmark/{decision.suite_label or decision.suite}/"},
        "properties": {"decision": decision.id, "candidate": decision.candidate, "verdict": decision.verdict},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(name: str, text: str) -> dict[str, Any]:
    return {"id": name, "shortDescription": {"text": text}}


def _words(kpi: Kpi) -> str:
    return phrases.rule(kpi.rule, kpi.better, kpi.against)


def _result(rule: str, verdict: str, text: str, suite_file: str) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": suite_file}, "region": {"startLine": 1}}
    return {
        "ruleId": rule,
        "level": "warning" if verdict == "INCONCLUSIVE" else "error",
        "message": {"text": f"{verdict}: {text}"},
        "locations": [{"physicalLocation": place, "logicalLocations": [{"name": rule, "kind": "member"}]}],
        "partialFingerprints": {"hallmarkKpi/v1": rule},
    }


def _version() -> str:
    try:
        return version("hallmark-platform")
    except PackageNotFoundError:
        return "0.0.0"
