"""Does the table of roles know every verb of the library, and is it what the documentation shows?"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.access.recorded import outcome_of, without_secrets
from strongroom.access.roles import VERBS, command_of, may, needed_for, outranks, row_of, table, verb_of
from strongroom.library import Strongroom
from strongroom.repository.identity import AccessRole

SECURITY = Path(__file__).parents[2] / "docs" / "SECURITY.md"
OF_FUNCTIONS = {"capture", "repair", "recover_objects"}
"""Rows of functions of `strongroom` itself, and `verify_by_restoring` is `verify` that is asked for more."""
OBSERVER, OPERATOR, RESTORER, AUDITOR, ADMIN = AccessRole


def verbs() -> set[str]:
    return {name for name, _ in inspect.getmembers(Strongroom, inspect.isfunction) if not name.startswith("_")}


def test_the_table_has_every_verb_and_no_other() -> None:
    assert VERBS.keys() - OF_FUNCTIONS - {"verify_by_restoring"} == verbs()


def test_every_verb_passes_the_gate() -> None:
    assert {name for name in verbs() if not hasattr(getattr(Strongroom, name), "__wrapped__")} == set()


def test_an_unknown_verb_is_for_administrators_alone() -> None:
    assert [role for role in AccessRole if may(role, "burn_down")] == [ADMIN]
    assert verb_of("burn_down").governed


def test_administrators_may_do_everything() -> None:
    assert all(may(ADMIN, name) for name in VERBS)


def test_nobody_but_an_administrator_destroys_or_makes_keys() -> None:
    for name in ("forget", "prune", "add_key", "remove_key", "require_approval", "repair"):
        assert needed_for(name) == "admin"
    assert needed_for("restore") == "restorer or admin"
    assert needed_for("backup") == "operator or admin"
    assert needed_for("audit") == "auditor or admin"


def test_what_only_looks_is_never_governed_and_what_is_governed_never_only_looks() -> None:
    assert {name for name, verb in VERBS.items() if verb.looks and verb.governed} == set()


def test_who_outranks_whom() -> None:
    assert [other for other in AccessRole if outranks(ADMIN, other)] == [OBSERVER, OPERATOR, RESTORER, AUDITOR]
    for role in (OPERATOR, RESTORER, AUDITOR):
        assert [other for other in AccessRole if outranks(role, other)] == [OBSERVER]
    assert not any(outranks(OBSERVER, other) for other in AccessRole)


@pytest.mark.parametrize(("level", "row"), [(None, "verify"), ("data", "verify"), ("restore", "verify_by_restoring")])
def test_a_verification_that_restores_is_another_row(level: str | None, row: str) -> None:
    assert row_of("verify", {"level": level}) == row


def test_the_documentation_shows_the_table() -> None:
    text = SECURITY.read_text()
    for verb, roles in table().items():
        marks = " | ".join("yes" if role.value in roles else " " for role in AccessRole)
        assert f"| {verb} | {marks} |" in text, verb
    assert all(command_of(name) in table() for name in VERBS)


@given(st.text(min_size=1, alphabet="abcdefgh123!$"), st.sampled_from(["password", "api_key", "token", "sig", "X-Amz-Signature"]))
def test_no_secret_of_a_url_is_written_down(secret: str, name: str) -> None:
    shown = without_secrets(f"pgvector://anna:{secret}@host:5432/db?a=b&{name}={secret}&c=d")
    assert shown == f"pgvector://anna:***@host:5432/db?a=b&{name}=***&c=d"


def test_what_came_of_it_is_short() -> None:
    assert outcome_of(list(range(1000))) == {"count": 1000}
    assert outcome_of(None) == {}
    assert outcome_of(True) == {"result": True}
