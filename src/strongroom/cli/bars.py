"""How progress looks: bars with rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class Bars:
    """A `strongroom.progress.Progress` on standard error."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=28),
            _Amount(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        self._shown = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._complete()
        self._shown.stop()

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        self._complete()
        self._task = self._shown.add_task(stage, total=total, unit=unit)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._shown.advance(self._task, amount)

    def _complete(self) -> None:
        if self._task is not None:
            task = next(task for task in self._shown.tasks if task.id == self._task)
            unit = task.fields["unit"] if task.completed else ""
            self._shown.update(self._task, total=task.completed or 1, completed=task.completed or 1, unit=unit)
            self._task = None


class _Amount(ProgressColumn):
    """What is done of what there is, and how fast, in the stage's unit."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if not unit:
            return Text()  # a stage that had nothing to count
        done = amount(task.completed, unit)
        total = f"/{amount(task.total, unit)}" if task.total is not None and not task.finished else ""
        speed = task.finished_speed or task.speed
        return Text(f"{done}{total}" + (f"  {amount(speed, unit)}/s" if speed else ""), style="cyan")


def amount(value: float, unit: str) -> str:
    """A number of bytes, rows or objects as people read it."""
    if unit != "bytes":
        return f"{value:,.0f} {unit}"
    for step in ("B", "KB", "MB", "GB"):
        if value < 1000 or step == "GB":
            return f"{value:.0f} {step}" if step == "B" else f"{value:.1f} {step}"
        value /= 1000
    return ""
