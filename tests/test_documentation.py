"""Is there what the documentation names: tests, runbooks that are played, and headings that are linked to?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if "node_modules" not in path.parts
}
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))} | {
    "README.md": (ROOT / "README.md").read_text()
}


def slug(heading: str) -> str:
    """As the places that show Markdown make an anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    text = PAGES[page]
    files = set(re.findall(r"(?:tests/[\w/]+/)?\btest_\w+\.py|tests/[\w/]+\.py", text))
    assert {one for one in files if not any(path == one or path.endswith(f"/{one}") for path in TESTS)} == set()
    named = re.findall(r"(test_\w+\.py)::(test_\w+)", text)
    found = {
        (path.rpartition("/")[2], name)
        for path, code in TESTS.items()
        for name in re.findall(r"^def (test_\w+)", code, re.MULTILINE)
    }
    assert set(named) - found == set()
    assert set(re.findall(r"`(test_\w+)`", text)) - {name for _, name in found} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_heading_has_one(page: str) -> None:
    links = [(target or page, anchor) for target, anchor in re.findall(r"\]\((\w+\.md)?#([\w-]+)\)", PAGES[page])]
    headings = {name: {slug(one) for one in re.findall(r"^#+ (.+)$", text, re.MULTILINE)} for name, text in PAGES.items()}
    assert {(target, anchor) for target, anchor in links if anchor not in headings[target]} == set()


def test_every_runbook_is_played_to_its_end() -> None:
    """A block that is left over fails the test that plays it (tests/scenarios/runbooks.py)."""
    titles = set(re.findall(r"^## Runbook: (.+)$", PAGES["OPERATIONS.md"], re.MULTILINE))
    played = {title for code in TESTS.values() for title in re.findall(r"with runbook\(\"([^\"]+)\"", code)}
    assert titles == played
    assert len(titles) > 5
