"""Objectives, percentiles and reports of drills: what is parsed, judged, written, signed and drawn, without restoring anything."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.errors import Damaged, VerificationFailed, WrongRequest
from strongroom.model import Answers
from strongroom.operations.drill import objectives, signing
from strongroom.operations.drill.came_back import wrong_answers
from strongroom.operations.drill.junit import junit
from strongroom.operations.drill.objectives import NAMES, SHARES, Outcome
from strongroom.operations.drill.page import page
from strongroom.operations.drill.report import Checked, DrillReport, Latency, RecoveryPoint, as_body, canonical, from_body
from strongroom.repository.keys import Keys
from strongroom.snapshots import latency

KEYS = Keys.of(b"m" * 32, b"r" * 16)
PUBLIC = KEYS.public_key.hex()
numbers = st.floats(0, 1e9, allow_nan=False).map(lambda one: round(one, 6))
texts = st.text(max_size=30)


def report_of(name: str = "notes", *, passed: bool = True, laps: tuple[float, ...] = (0.001, 0.002, 0.03)) -> DrillReport:
    point = RecoveryPoint("newest", None, f"faiss:///srv/{name}", "faiss", "a" * 64, "2026-01-02T03:04:05+00:00", 5, 0, False, "")
    steps = (Checked("restore", True, {"rows": 5}, ()), Checked("answers", passed, {}, () if passed else (f"{name}: wrong",)))
    taken = Latency(0.002, 0.03, laps, 0.001, 0.02)
    met = (Outcome("rto", 60.0, 2.5, True, 0.0), Outcome("recall", 0.9, 0.5, False, 0.4))
    parts = ("f" * 32, "2026-01-02T03:05:05+00:00", "host", "0.1.0", point, "faiss", "exact", "another process", steps)
    rest = ({"restore": 1.25, "restart": 1.5}, 2.5, 60.0, 10, {name: 0.5}, {name: taken}, met, passed)
    return DrillReport(*parts, *rest, {"1": 1.0, "never": 0.0})


# -- objectives ----------------------------------------------------------------------------------------------------------------


def test_objectives_are_read_as_people_write_them() -> None:
    wanted = objectives.parse("rpo=5m, rto=30m,recall=0.95,p95=50ms,p50=1.5s,envelope=3")
    assert wanted == {"rpo": 300, "rto": 1800, "recall": 0.95, "p95": 0.05, "p50": 1.5, "envelope": 3}
    assert objectives.parse("") == {}
    assert objectives.objectives_of({"rto": 60}) == objectives.objectives_of("rto=1m") == {"rto": 60}
    with pytest.raises(WrongRequest, match="speed"):
        objectives.objectives_of({"speed": 60})


@pytest.mark.parametrize(
    "text",
    [
        *("rto", "rto=", "rto=5", "rto=-5m", "rto=5 minutes", "speed=5m", "rto=1m,rto=2m"),
        *("recall=0", "recall=1.2", "recall=nan", "recall=95%", "recall=x", "envelope=0", "envelope=inf", "p95=inf"),
    ],
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(WrongRequest) as refused:
        objectives.parse(text)
    assert refused.value.hint


@given(st.dictionaries(st.sampled_from(NAMES), numbers, min_size=1), st.dictionaries(st.sampled_from(NAMES), st.none() | numbers))
def test_an_objective_is_met_by_what_was_measured_or_not_at_all(
    wanted: dict[str, float], measured: dict[str, float | None]
) -> None:
    found = {one.name: one for one in objectives.judge(wanted, measured)}
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        value = measured.get(name)
        if value is None:
            assert (one.passed, one.missed_by) == (False, None)
            assert "was not measured" in str(one)
        else:
            assert one.passed == (value >= wanted[name] if name in SHARES else value <= wanted[name])
            assert (one.missed_by == 0) == one.passed
            assert ("missed by" in str(one)) != one.passed
    assert objectives.judge({"p95": 1.0}, {"p95": math.nan})[0].passed is False


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(laps: list[float]) -> None:
    found = latency.summary(laps)
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        assert found[name] in laps
        assert sum(one <= found[name] for one in laps) >= share * len(laps)
        assert sum(one < found[name] for one in laps) < share * len(laps)
    assert found["queries"] == len(laps)


# -- sealed answers that can't be right ----------------------------------------------------------------------------------------


def answers_of(*queries: list[tuple[int, float]]) -> Answers:
    ids = tuple(tuple(name for name, _ in one) for one in queries)
    return Answers(ids, tuple(np.array([far for _, far in one], np.float32) for one in queries))


@pytest.mark.parametrize(
    ("sealed", "wrong"),
    [
        (answers_of([(1, 0.5), (2, 1.0), (3, 2.0)]), 0),
        (answers_of([(1, 0.50001), (2, 1.0), (4, 2.0)]), 0),  # the last one has a rival at the same distance
        (answers_of([(1, 0.5), (9, 1.0), (3, 2.0)]), 1),
        (answers_of([(1, 0.5), (2, 1.1), (3, 2.0)]), 1),
        (answers_of([(1, 0.5), (2, 1.0)]), 1),
        (answers_of(), 1),
    ],
)
def test_sealed_answers_are_held_to_exact_search(sealed: Answers, wrong: int) -> None:
    assert wrong_answers(sealed, answers_of([(1, 0.5), (2, 1.0), (3, 2.0)])) == wrong


# -- reports -------------------------------------------------------------------------------------------------------------------


@given(texts, st.booleans(), st.lists(numbers, min_size=1, max_size=5))
def test_a_report_reads_back_as_it_was_signed(name: str, passed: bool, laps: list[float]) -> None:
    report = report_of(name, passed=passed, laps=tuple(laps))
    body = json.loads(canonical(as_body(report)))
    assert from_body("x", body) == report
    document = signing.signed(report, KEYS).document
    assert dataclasses.replace(signing.check("x", document, PUBLIC), document=b"") == report


def test_every_number_and_word_of_a_report_is_signed() -> None:
    document = json.loads(signing.signed(report_of(passed=False), KEYS).document)

    def altered(value: object, path: tuple[object, ...] = ()):
        if isinstance(value, dict):
            for key in value:
                yield from altered(value[key], (*path, key))
        elif isinstance(value, list):
            for key, one in enumerate(value):
                yield from altered(one, (*path, key))
        else:
            yield path

    paths = list(altered(document["report"]))
    assert len(paths) > 40
    for path in paths:
        copy = json.loads(json.dumps(document))
        place = copy["report"]
        for key in path[:-1]:
            place = place[key]
        before = place[path[-1]]
        place[path[-1]] = not before if isinstance(before, bool) else "x" if isinstance(before, str) else 12345.5
        with pytest.raises(VerificationFailed):
            signing.check("x", json.dumps(copy).encode(), PUBLIC)
    signing.check("x", json.dumps(document).encode(), PUBLIC)  # the same, written without line breaks


def test_only_the_key_that_is_meant_can_have_signed() -> None:
    other = Keys.of(b"x" * 32, b"r" * 16)
    forged = signing.signed(report_of(), other).document
    with pytest.raises(VerificationFailed, match="isn't that of"):
        signing.check("x", forged, PUBLIC)
    relabelled = json.loads(forged) | {"public_key": PUBLIC}
    with pytest.raises(VerificationFailed):
        signing.check("x", json.dumps(relabelled).encode(), PUBLIC)
    with pytest.raises(WrongRequest, match="nobody said"):
        signing.check("x", forged, None)
    for wrong in ("", "00", PUBLIC[:-1] + "x"):
        with pytest.raises(WrongRequest):
            signing.check("x", forged, wrong)


def test_a_signature_for_something_else_is_none_of_a_report() -> None:
    """The repository's key signs manifests too: whoever has such a signature over the same bytes has none of a report."""
    body = as_body(report_of())
    document = {"report": body, "public_key": PUBLIC, "signature": KEYS.sign(canonical(body)).hex()}
    with pytest.raises(VerificationFailed):
        signing.check("x", json.dumps(document).encode(), PUBLIC)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"report": NaN, "public_key": "", "signature": ""}', b"\\xff"])
def test_what_is_no_report_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(Damaged):
        signing.check("x", content, PUBLIC)


@given(texts, st.booleans())
def test_a_page_shows_names_as_they_are_and_runs_nothing(name: str, passed: bool) -> None:
    report = report_of(f"<script>alert(1)</script>{name}", passed=passed)
    shown = page(report, [report, report_of(passed=False)], PUBLIC)
    assert "<script" not in shown
    assert "default-src 'none'" in shown
    assert not re.search(r"(src|href)=", shown)
    for picture in re.findall(r"<svg.*?</svg>", shown, re.DOTALL):
        if all(ord(one) >= 32 and ord(one) not in (0xFFFE, 0xFFFF) and not 0xD800 <= ord(one) < 0xE000 for one in picture):
            ElementTree.fromstring(picture)  # noqa: S314 - we wrote it


@given(texts, st.booleans())
def test_a_pipeline_sees_each_step_and_objective(name: str, passed: bool) -> None:
    report = report_of(name, passed=passed)
    suites = ElementTree.fromstring(junit(report))  # noqa: S314 - we wrote it
    cases = suites.findall("./testsuite/testcase")
    assert [case.get("name") for case in cases] == ["restore", "answers", "rto", "recall"]
    failing = {case.get("name") for case in cases if case.find("failure") is not None}
    assert failing == {"recall"} | (set() if passed else {"answers"})
    suite = suites.find("testsuite")
    assert suite is not None
    assert (int(suite.get("tests", "")), int(suite.get("failures", ""))) == (4, len(failing))
    assert suites.get("failures") == suite.get("failures")


def test_a_step_that_was_not_reached_fails_the_pipeline() -> None:
    report = dataclasses.replace(report_of(), steps=(Checked("answers", False, {}, (), reached=False),), objectives=())
    suites = ElementTree.fromstring(junit(report))  # noqa: S314 - we wrote it
    assert suites.get("failures") == "1"
    failure = suites.find("./testsuite/testcase/failure")
    assert failure is not None
    assert "not reached" in failure.get("message", "")
