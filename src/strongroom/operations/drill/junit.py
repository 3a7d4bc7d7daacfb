"""How does a CI pipeline read a drill? As JUnit XML: a test case for each step and each objective. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from strongroom.operations.drill.report import DrillReport

_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't hold."""
_STAGES = {"restore": ("restore", "reading back")}


def junit(report: DrillReport) -> bytes:
    """Steps that were not reached are failures too: a drill that did not look proved nothing."""
    source = report.point.source if report.point else report.repository
    suites = ElementTree.Element("testsuites", {"name": "strongroom drill"})
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": _plain(f"drill {source}"), "timestamp": report.started[:19], "hostname": _plain(report.host)}
    )
    properties = ElementTree.SubElement(suite, "properties")
    point = report.point
    said = {
        "repository": report.repository,
        "report": report.id,
        "rto": report.rto,
        "rpo": report.rpo,
        "recall": report.lowest_recall,
    }
    said |= {"p95": report.highest_p95, "rung": report.rung, "restart": report.restart}
    said |= {"snapshot": point.snapshot, "moment": point.at, "choice": point.choice, "seed": point.seed} if point else {}
    for name, value in said.items():
        if value not in (None, ""):
            ElementTree.SubElement(properties, "property", {"name": name, "value": _plain(str(value))})
    failed = 0
    for step in report.steps:
        seconds = sum(report.stages.get(stage, 0.0) for stage in _STAGES.get(step.name, (step.name,)))
        case = _case(suite, "step", step.name, seconds)
        if not step.passed:
            failed += 1
            _fail(case, step.findings or ("not reached: an earlier step failed" if not step.reached else "it looked at nothing",))
    for one in report.objectives:
        case = _case(suite, "objective", one.name, 0.0)
        if not one.passed:
            failed += 1
            _fail(case, (str(one),))
    total = len(report.steps) + len(report.objectives)
    counts = {
        "tests": str(total),
        "failures": str(failed),
        "errors": "0",
        "skipped": "0",
        "time": f"{sum(report.stages.values()):.3f}",
    }
    for element in (suites, suite):
        for name, value in counts.items():
            if element is suite or name != "skipped":
                element.set(name, value)
    ElementTree.indent(suites)
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _case(suite: ElementTree.Element, kind: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": f"drill.{kind}", "name": name, "time": f"{seconds:.3f}"})


def _fail(case: ElementTree.Element, told: tuple[str, ...]) -> None:
    failure = ElementTree.SubElement(case, "failure", {"message": _plain(told[0]), "type": "failed"})
    failure.text = "\n".join(_plain(one) for one in told)


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)
