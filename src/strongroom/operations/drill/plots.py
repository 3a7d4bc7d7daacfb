"""How are the numbers of a drill drawn? As inline SVG, by hand: no script, no library, nothing that is fetched. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

INK, SOFT, GRID = "#1c2733", "#66727f", "#e3e8ee"
GOOD, BAD, MARK = "#1a7f4b", "#c0392b", "#b7791f"
SERIES = ("#2563a8", "#d97a1f", "#4b9b5f", "#8e5bb5", "#b5446e", "#5b7083")
Shown = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Limit:
    """A line at a value: an objective, or what was recorded."""

    value: float
    label: str
    color: str = MARK


@dataclass(frozen=True, slots=True)
class Dot:
    """One drill in a trend: None if it came to no value."""

    when: str
    value: float | None
    passed: bool


def stacked(parts: Sequence[tuple[str, float]], shown: Shown, until: tuple[int, str]) -> str:
    """Consecutive stages as one bar; a bracket over the first `until[0]` of them is called `until[1]`."""
    total = sum(seconds for _, seconds in parts) or 1.0
    left, bar, out = 0.0, 34.0, list[str]()
    for place, (name, seconds) in enumerate(parts):
        width = seconds / total * 1000
        color = SERIES[place % len(SERIES)]
        out.append(f'<rect x="{left:.1f}" y="{bar}" width="{max(width, 1):.1f}" height="34" fill="{color}">')
        out.append(f"<title>{escape(name)}: {escape(shown(seconds))}</title></rect>")
        if width > 70:
            out.append(_text(left + width / 2, bar + 22, shown(seconds), "middle", "#fff", 14))
        left += width
        if place + 1 == until[0]:
            out.append(f'<path d="M0.5 28 V20 H{left:.1f} V28" fill="none" stroke="{INK}"/>')
            out.append(_text(min(left / 2, 900), 14, until[1], "middle" if left > 200 else "start", INK, 14))
    return _svg(1000, 72, "".join(out), "where the time went")


def legend(names: Sequence[str]) -> str:
    """As HTML: which color is which."""
    items = (f'<li><i style="background:{SERIES[n % len(SERIES)]}"></i>{escape(name)}</li>' for n, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def distribution(series: Sequence[tuple[str, Sequence[float]]], limits: Sequence[Limit], shown: Shown) -> str:
    """For each series the share of values up to x, as steps, on a logarithmic axis."""
    values = [one for _, some in series for one in some] + [limit.value for limit in limits]
    low, high = _decade_bounds(values)
    top = 12.0 + 17 * len(limits)
    width, height, base = 1000.0, top + 276, top + 226

    def across(value: float) -> float:
        return 60 + (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low)) * (width - 80)

    out = [_line(60, base - share * (base - top), width - 20, base - share * (base - top), GRID) for share in (0, 0.5, 0.95, 1)]
    out += [_text(52, base - share * (base - top) + 4, f"{share:.0%}", "end", SOFT, 12) for share in (0, 0.5, 0.95)]
    for tick in _ticks(low, high):
        out += [_line(across(tick), top, across(tick), base, GRID), _text(across(tick), base + 18, shown(tick), "middle", SOFT, 12)]
    for row, limit in enumerate(limits):
        at = across(limit.value)
        above = 14.0 + 17 * row
        out.append(
            f'<path d="M{at:.1f} {above - 9:.1f} V{base}" stroke="{limit.color}" stroke-width="1.6" stroke-dasharray="5 4"/>'
        )
        anchor, shift = ("end", -6) if at > width * 0.6 else ("start", 6)
        out.append(_text(at + shift, above, f"{limit.label} {shown(limit.value)}", anchor, limit.color, 12))
    for place, (name, some) in enumerate(series):
        ordered, path = sorted(some), list[str]()
        for rank, value in enumerate(ordered):
            above, below = (base - share / len(ordered) * (base - top) for share in (rank + 1, rank))
            path.append(f"{'M' if not rank else 'L'}{across(value):.1f} {below:.1f} V{above:.1f}")
        color = SERIES[place % len(SERIES)]
        out.append(f'<path d="{" ".join(path)}" fill="none" stroke="{color}" stroke-width="2"><title>{escape(name)}</title></path>')
    out.append(_text(width - 20, height - 8, "time for one query", "end", SOFT, 12))
    return _svg(width, height, "".join(out), "distribution of latencies")


def bars(rows: Sequence[tuple[str, float]], limit: float | None, shown: Shown) -> str:
    """Shares from 0 to 1, a bar each; a line at `limit`, and what falls short of it is red."""
    out, height = list[str](), 34.0 * len(rows) + 26
    for place, (name, value) in enumerate(rows):
        y = 34.0 * place + 6
        color = BAD if limit is not None and value < limit else SERIES[0]
        out.append(f'<rect x="260" y="{y}" width="640" height="20" rx="3" fill="{GRID}"/>')
        out.append(f'<rect x="260" y="{y}" width="{max(1.0, 640 * min(1.0, value)):.1f}" height="20" rx="3" fill="{color}"/>')
        out.append(_text(248, y + 15, _short(name, 34), "end", INK, 13) + _text(912, y + 15, shown(value), "start", INK, 13))
    if limit is not None:
        at = 260 + 640 * limit
        out.append(f'<path d="M{at:.1f} 0 V{height - 22:.1f}" stroke="{MARK}" stroke-width="1.6" stroke-dasharray="5 4"/>')
        out.append(_text(at, height - 8, f"objective {shown(limit)}", "middle" if limit < 0.9 else "end", MARK, 12))
    return _svg(1000, height, "".join(out), "shares")


def trend(title: str, dots: Sequence[Dot], limit: float | None, shown: Shown, *, high: float | None = None) -> str:
    """One number over the drills, oldest first; failed drills are red, those without a value are crosses at the foot."""
    values = [one.value for one in dots if one.value is not None]
    most = high if high is not None else _scale(values, limit)
    width, base, top = 480.0, 150.0, 40.0

    def place(number: int) -> float:
        return 66 + (number + 0.5) / max(1, len(dots)) * (width - 82)

    def height(value: float) -> float:
        return base - min(1.0, value / most) * (base - top)

    out = [_text(0, 16, title, "start", INK, 15, bold=True)]
    for share in (0.0, 0.5, 1.0):
        out += [_line(66, height(share * most), width - 10, height(share * most), GRID)]
        out += [_text(60, height(share * most) + 4, shown(share * most), "end", SOFT, 11)]
    if limit is not None and limit > most:
        out.append(_text(width - 10, 30, f"objective {shown(limit)}: far above", "end", MARK, 11))
    elif limit is not None:
        out.append(f'<path d="M66 {height(limit):.1f} H{width - 10}" stroke="{MARK}" stroke-width="1.4" stroke-dasharray="5 4"/>')
    points = [(place(number), height(one.value)) for number, one in enumerate(dots) if one.value is not None]
    if len(points) > 1:
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{SERIES[0]}" stroke-width="1.8"/>')
    for number, one in enumerate(dots):
        told = f"<title>{escape(one.when)}: {escape(shown(one.value)) if one.value is not None else 'no value'}</title>"
        x, color = place(number), GOOD if one.passed else BAD
        if one.value is None:
            out.append(f'<path d="M{x - 4:.1f} {base - 8} l8 8 m0 -8 l-8 8" stroke="{BAD}" stroke-width="2">{told}</path>')
        else:
            out.append(f'<circle cx="{x:.1f}" cy="{height(one.value):.1f}" r="4" fill="{color}">{told}</circle>')
    if dots:
        out += [
            _text(66, base + 20, dots[0].when[:10], "start", SOFT, 11),
            _text(width - 10, base + 20, dots[-1].when[:10], "end", SOFT, 11),
        ]
    return _svg(width, 176, "".join(out), title)


def _scale(values: Sequence[float], limit: float | None) -> float:
    """What the top of the axis stands for. An objective that is far away would make everything else flat."""
    most = max(values, default=0.0)
    if limit is not None and (not most or limit < 4 * most):
        most = max(most, limit)
    return 1.15 * most or 1.0


def _decade_bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=1e-3), max(values, default=1.0)
    low, high = max(low, 1e-7) / 1.3, max(high, 1e-7) * 1.3
    return low, max(high, low * 4)


def _ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    found = [step * 10.0**power for power in range(-8, 5) for step in steps]
    return [one for one in found if low <= one <= high]


def _text(x: float, y: float, what: str, anchor: str, color: str, size: int, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}"{weight}>{escape(what)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, color: str) -> str:
    return f'<path d="M{x:.1f} {y:.1f} L{to_x:.1f} {to_y:.1f}" stroke="{color}"/>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _svg(width: float, height: float, content: str, label: str) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(label)}">{content}</svg>'
