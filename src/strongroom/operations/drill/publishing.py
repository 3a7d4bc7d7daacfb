"""Where do reports go that people and pipelines read? report.json, report.html and junit.xml in one directory."""

from __future__ import annotations

from pathlib import Path

from strongroom.errors import from_os_error
from strongroom.operations.drill.junit import junit
from strongroom.operations.drill.page import page
from strongroom.operations.drill.past import drill_history
from strongroom.operations.drill.report import DrillReport
from strongroom.repository import Repository


def publish(repository: Repository, report: DrillReport, directory: Path) -> None:
    """Write the three files, each in one step, in the place of earlier ones."""
    past = drill_history(repository, report.point.source if report.point else None).reports
    shown = [one for one in past if one.started <= report.started] or [report]
    contents = {
        "report.json": report.document,
        "junit.xml": junit(report),
        "report.html": page(report, shown, repository.keys.public_key.hex()).encode(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            fresh = directory / f".{name}.fresh"
            fresh.write_bytes(content)
            fresh.replace(directory / name)
    except OSError as error:
        raise from_os_error(error, str(directory)) from error
