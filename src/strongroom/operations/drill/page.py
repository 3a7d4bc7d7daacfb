"""How do people read a drill? One HTML file with everything in it: verdict, objectives, times, answers, steps, trend. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from strongroom.operations.drill import plots
from strongroom.operations.drill.objectives import Outcome, duration
from strongroom.operations.drill.plots import Dot, Limit
from strongroom.operations.drill.report import DrillReport

_RECENT = 60
"""Drills in the trend."""
_FIELDS = len(plots.SERIES)
_MEANINGS = {
    "recovery point": "one could be chosen",
    "objects": "every object that it needs is there",
    "data": "every blob decrypts and is what its id says",
    "restore": "rows and catalog came back as they were",
    "restart": "another process opens what was restored",
    "answers": "it answers as the live index did",
}


def page(report: DrillReport, past: Sequence[DrillReport], public_key: str) -> str:
    """The report; `past` are those of the same source, this one among them, oldest first."""
    word, tone = ("passed", "good") if report.passed else ("failed", "bad")
    parts = [
        f'<h1>Restore drill <span class="verdict {tone}">{word}</span></h1>',
        _subject(report),
        f'<div class="tiles">{"".join(_tiles(report))}</div>',
        _why(report),
        _times(report),
        _latency(report),
        _recall(report),
        _steps(report),
        _trend(past or [report], report),
        _coverage(report),
        _foot(report, public_key),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>Restore drill {word}: {escape(report.point.source if report.point else report.repository)}</title>"
    body = "".join(filter(None, parts))
    head += f"{title}<style>{_style()}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def _subject(report: DrillReport) -> str:
    point = report.point
    if point is None:
        return f'<p class="soft">no recovery point · {_time(report.started)} UTC on {escape(report.host)}</p>'
    journal = f" and {point.operations:,} operations of its journal" if point.journal else ""
    seed = f", seed {point.seed}" if point.seed is not None else ""
    return (
        f"<p><b>{escape(point.source)}</b> as of <b>{_time(point.at)} UTC</b> ({escape(point.choice)}{seed})</p>"
        f'<p class="soft">snapshot {point.snapshot[:12]}{journal}, {point.rows:,} rows · drilled {_time(report.started)} UTC on '
        f"{escape(report.host)}{f' · {escape(report.rung)} restore to {escape(report.target_engine)}' if report.rung else ''}"
        f"{f' · {escape(report.restart)}' if report.restart else ''}</p>"
    )


def _tiles(report: DrillReport) -> Iterable[str]:
    met = {one.name: one for one in report.objectives}
    recall = report.lowest_recall
    p95 = report.highest_p95
    yield _tile("RTO", duration(report.rto) if report.rto is not None else "–", "to the first correct answer", met.get("rto"))
    yield _tile("RPO", duration(report.rpo) if report.rpo is not None else "–", "since the newest recovery point", met.get("rpo"))
    yield _tile(
        f"recall@{report.k or 10}", f"{recall:.3f}" if recall is not None else "–", "against exact search", met.get("recall")
    )
    yield _tile("latency p95", duration(p95) if p95 is not None else "–", _beside_recorded(report), met.get("p95"))
    for name in ("p50", "envelope"):
        if name in met:
            one = met[name]
            value = "–" if one.measured is None else duration(one.measured) if name == "p50" else f"{one.measured:.2f}×"
            yield _tile(
                "latency p50" if name == "p50" else "p95 envelope", value, "of the recorded p95" if name == "envelope" else "", one
            )


def _beside_recorded(report: DrillReport) -> str:
    recorded = [one.recorded_p95 for one in report.latency.values() if one.recorded_p95]
    return f"{duration(max(recorded))} at backup" if recorded else "nothing recorded at backup"


def _tile(name: str, value: str, note: str, outcome: Outcome | None) -> str:
    tone, said = "", escape(note)
    if outcome is not None:
        tone = " met" if outcome.passed else " missed"
        verdict = escape(outcome.verdict) if outcome.passed else f"<em>{escape(outcome.verdict)}</em>"
        said = f"{said}<br>{verdict}: {escape(outcome.limit)}"
    return f'<div class="tile{tone}"><span>{escape(name)}</span><b>{escape(value)}</b><span>{said}</span></div>'


def _why(report: DrillReport) -> str:
    if report.passed:
        return ""
    told = report.failures or ("a step was not reached",)
    return f'<section><h2>Why it failed</h2><div class="no">{"".join(f"<p>✗ {escape(one)}</p>" for one in told)}</div></section>'


def _times(report: DrillReport) -> str:
    parts = [(name, seconds) for name, seconds in report.stages.items() if seconds > 0]
    if not parts:
        return ""
    recovery = sum(1 for name, _ in parts if name in ("restore", "restart"))
    told = plots.stacked(parts, duration, (recovery, "RTO" if report.rto is not None else "recovery"))
    named = plots.legend([f"{name} {duration(seconds)}" for name, seconds in parts])
    return f"<section><h2>Where the time went</h2>{told}{named}</section>"


def _latency(report: DrillReport) -> str:
    if not report.latency:
        return ""
    chosen = sorted(report.latency.items(), key=lambda one: -one[1].p95)[:_FIELDS]
    recorded = [one.recorded_p95 for _, one in chosen if one.recorded_p95]
    limits = [Limit(max(recorded), "p95 at backup", plots.SOFT)] if recorded else []
    limits += [Limit(one.wanted, f"objective {one.name}") for one in report.objectives if one.name in ("p50", "p95")]
    drawn = plots.distribution([(name, one.laps) for name, one in chosen], limits, duration)
    left = f" (the slowest {_FIELDS} of {len(report.latency)} fields)" if len(report.latency) > _FIELDS else ""
    named = plots.legend([f"{name}: p50 {duration(one.p50)}, p95 {duration(one.p95)}" for name, one in chosen])
    return f"<section><h2>Latency after the restart{left}</h2>{drawn}{named}</section>"


def _recall(report: DrillReport) -> str:
    if not report.recall:
        return ""
    limit = next((one.wanted for one in report.objectives if one.name == "recall"), None)
    rows = sorted(report.recall.items(), key=lambda one: one[1])[:40]
    drawn = plots.bars(rows, limit, lambda value: f"{value:.3f}")
    return f"<section><h2>Recall@{report.k or 10} against exact search in the rows that came back</h2>{drawn}</section>"


def _steps(report: DrillReport) -> str:
    rows = []
    for one in report.steps:
        mark = '<td class="mark ok">✓</td>' if one.passed else f'<td class="mark no">{"✗" if one.reached else "–"}</td>'
        looked = one.looked or ("nothing" if one.reached else "not reached")
        found = "".join(f"<p>{escape(finding)}</p>" for finding in one.findings)
        rows.append(
            f"<tr>{mark}<td>{escape(one.name)}<p class='soft'>{_MEANINGS.get(one.name, '')}</p></td>"
            f"<td>{escape(looked)}<div class='no'>{found}</div></td></tr>"
        )
    table = f"<table><tr><th></th><th>step</th><th>looked at</th></tr>{''.join(rows)}</table>"
    return f"<section><h2>What was checked</h2>{table}</section>"


def _trend(past: Sequence[DrillReport], report: DrillReport) -> str:
    recent = past[-_RECENT:]
    limits = {one.name: one.wanted for one in report.objectives}

    def drawn(title: str, name: str, values: Sequence[float | None], shown: plots.Shown, high: float | None = None) -> str:
        dots = [Dot(_time(one.started), value, one.passed) for one, value in zip(recent, values, strict=True)]
        return plots.trend(title, dots, limits.get(name), shown, high=high)

    charts = (
        drawn("RTO", "rto", [one.rto for one in recent], duration),
        drawn("RPO", "rpo", [one.rpo for one in recent], duration),
        drawn("lowest recall", "recall", [one.lowest_recall for one in recent], lambda value: f"{value:.2f}", 1.0),
        drawn("highest p95", "p95", [one.highest_p95 for one in recent], duration),
    )
    return f'<section><h2>Trend: the last {len(recent)} drills</h2><div class="grid">{"".join(charts)}</div></section>'


def _coverage(report: DrillReport) -> str:
    rows = [
        (f"within {days} {'day' if days == '1' else 'days'}", report.coverage[days])
        for days in ("1", "7", "30", "90")
        if days in report.coverage
    ]
    if not rows:
        return ""
    drawn = plots.bars(rows, None, lambda value: f"{value:.1%}")
    never = report.coverage.get("never", 0.0)
    return (
        f"<section><h2>Bytes of all snapshots that were proven</h2>{drawn}<p class='soft'>never proven: {never:.1%}</p></section>"
    )


def _foot(report: DrillReport, public_key: str) -> str:
    kept = (
        f"kept in the repository as <code>drills/{report.id}</code>"
        if report.id
        else f"not kept in the repository: {escape(report.unkept)}"
    )
    return (
        f"<footer><p>{kept}</p><p>report.json beside this page is signed; check it with <code>strongroom drill verify report.json "
        f"--public-key {public_key}</code>. This page itself is not signed.</p><p>Strongroom {escape(report.version)}, repository "
        f"{report.repository}</p></footer>"
    )


def _time(text: str) -> str:
    return text[:19].replace("T", " ")


def _style() -> str:
    return (resources.files(__package__) / "page.css").read_text().replace("\n", "")
