"""One gate decision as JUnit XML, for CI systems: a test case a KPI, and one for the verdict itself.

Nothing but PASS is green. FAIL is a failure, INVALID an error, INCONCLUSIVE a failure of type INCONCLUSIVE, because a
skipped case would leave the build green. Only KPIs that do not gate (advisory, or
not judged for want of a baseline) are skipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from reports import phrases
from reports.facts import Decision, Kpi


def render(decision: Decision) -> str:
    """Return the decision as a JUnit XML document, without a timestamp: the same decision gives the same bytes."""
    cases = [_verdict(decision), *(_case(decision, kpi) for kpi in decision.kpis)]
    found = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")}
    counts = {
        "tests": str(len(cases)),
        "failures": str(found["failure"]),
        "errors": str(found["error"]),
        "skipped": str(found["skipped"]),
        "time": "0",
    }
    root = ET.Element("testsuites", {"name": "hallmark gate", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _clean(decision.suite_label or decision.suite), **counts})
    properties = ET.SubElement(suite, "properties")
    for name in ("id", "candidate", "version_label", "baseline_label", "mode", "alpha", "bootstrap", "plan"):
        value = getattr(decision, name)
        ET.SubElement(properties, "property", {"name": name, "value": _clean(str(value))})
    suite.extend(cases)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _verdict(decision: Decision) -> ET.Element:
    case = _named(decision, "verdict")
    if decision.verdict != "PASS":
        broken = ", ".join(kpi.label for kpi in decision.kpis if not kpi.holds)
        reason = "; ".join(decision.reasons) or broken or "no KPI says why"
        _outcome(case, decision.verdict, f"the candidate {phrases.meaning(decision.verdict)}: {reason}", "")
    return case


def _case(decision: Decision, kpi: Kpi) -> ET.Element:
    case = _named(decision, kpi.label)
    details = _details(kpi)
    if not kpi.gating:
        what = "advisory, never gates" if kpi.verdict != "NOT_JUDGED" else "not judged: it needs a baseline"
        ET.SubElement(case, "skipped", {"message": f"{what}; {_clean(phrases.measured(kpi))}"})
    elif kpi.verdict != "PASS":
        _outcome(case, kpi.verdict, phrases.why(kpi), details)
    else:
        ET.SubElement(case, "system-out").text = _clean(details)
    return case


def _named(decision: Decision, name: str) -> ET.Element:
    group = f"hallmark.gate.{decision.suite_label or phrases.short(decision.suite)}"
    return ET.Element("testcase", {"classname": _clean(group), "name": _clean(name), "time": "0"})


def _outcome(case: ET.Element, verdict: str, message: str, details: str) -> None:
    tag = "error" if verdict == "INVALID" else "failure"
    ET.SubElement(case, tag, {"type": _clean(verdict), "message": _clean(message)}).text = _clean(details or message)


def _details(kpi: Kpi) -> str:
    lines = [f"{kpi.verdict}: {phrases.measured(kpi)}", f"rule: {phrases.rule(kpi.rule, kpi.better, kpi.against)}"]
    lines.append(f"samples: {phrases.number(kpi.n)}, clusters: {phrases.number(kpi.clusters)}, bound: {kpi.bound}")
    lines += [f"evidence: {mark}" for mark in kpi.marks]
    if kpi.samples_needed:
        lines.append(f"more samples needed: {phrases.number(kpi.samples_needed)}")
    if kpi.control:
        lines.append(f"control: {kpi.control} {kpi.control_verdict}")
    lines += [f"reason: {reason}" for reason in kpi.reasons]
    lines += ["worst: " + ", ".join(f"{key} {value}" for key, value in item.items()) for item in kpi.worst]
    return "\n".join(lines)


def _clean(text: str) -> str:
    """Return text without the characters that XML 1.0 cannot hold."""
    return "".join(
        c for c in text if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"
    )
