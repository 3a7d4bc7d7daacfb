"""How does a line look to people, and a report to programs? As text, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from strongroom.model import Status


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on: be silent, and leave it to the exit code to say what was done."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Console()
err = _Console(stderr=True)

Part = str | tuple[str, str]
"""A piece of a line: a text as it is, or a text and its style."""

OK, BAD = ("✓", "green"), ("✗", "red")
MARKS = {Status.CAPTURED: OK, Status.NOT_OFFERED: ("–", "dim"), Status.NOT_CAPTURED: ("!", "yellow")}

MOST_ITEMS = 12
"""Shown to people of what an engine may have thousands of."""


def as_json(value: Any) -> str:
    """Indented JSON of reports, plans and lists of them."""
    return json.dumps(plain(value), indent=2, sort_keys=True)


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name.lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def line(*parts: Part, to: Console | None = None) -> None:
    """Print one line, left whole whatever the width of the terminal is. Names are shown as they are, never taken for markup."""
    (to or out).print(text_of(*parts), soft_wrap=True)


def show_done(what: str) -> None:
    line(OK, f" {what}")


def show_problem(problem: str) -> None:
    """On standard error."""
    line(BAD, f" {problem}", to=err)


def paragraph(*parts: Part, indent: int = 4) -> None:
    """Prose, wrapped at the width of the terminal with a hanging indent; one line where nobody looks."""
    text = text_of(*parts)
    if not out.is_terminal:
        out.print(text, soft_wrap=True)
        return
    first, *rest = text.wrap(out, out.width)
    out.print(first)
    if rest:
        folded = text[len(first) :]
        folded = folded[len(folded) - len(folded.plain.lstrip()) :]
        table = Table.grid(padding=0)
        table.add_row(" " * indent, folded)
        out.print(table)


def text_of(*parts: Part) -> Text:
    """Control characters in names must not reach the terminal."""
    shown = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*(("".join(c if c.isprintable() else "�" for c in text), style) for text, style in shown))


def counted(count: int, things: str) -> str:
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def rows(count: int) -> str:
    return counted(count, "rows")


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_ITEMS} more" if len(names) > MOST_ITEMS else ""
    return f"{', '.join(names[:MOST_ITEMS])}{more}"
