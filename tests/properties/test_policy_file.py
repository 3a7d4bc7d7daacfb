"""Is the policy file read strictly? Unknown keys, lines, nearest names, secrets; what is shown parses to the same."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strongroom.errors import WrongRequest
from strongroom.policy import marked, reading
from strongroom.policy.document import Document, Policy, Repository, Retention, Source
from strongroom.policy.editors import schema
from strongroom.policy.quantities import seconds, size

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = textwrap.dedent(
    (DOCS / "OPERATIONS.md")
    .read_text()
    .partition("\n## The policy file\n")[2]
    .partition("\n    version: 1\n")[2]
    .partition("\n- **")[0]
)
EXAMPLE = "version: 1\n" + EXAMPLE
SMALL = {
    "version": 1,
    "sources": {"docs": {"url": "faiss:///x.faiss"}},
    "repositories": {"main": {"url": "/r"}},
    "policies": {"p": {"repository": "main"}},
}


def wrong(text: str) -> tuple[reading.Problem, ...]:
    with pytest.raises(reading.WrongDocument) as caught:
        reading.read_text(text)
    return caught.value.problems


def with_(path: str, value: Any) -> str:
    """SMALL with one more key, as YAML."""
    document = json.loads(json.dumps(SMALL))
    *steps, last = path.split(".")
    at = document
    for step in steps:
        at = at.setdefault(step, {})
    at[last] = value
    return marked.write(document)


# -- the same comes back ---------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: not reading._in_text(text)
)
TIMES = st.builds(lambda number, unit: f"{number}{unit}", st.integers(1, 400), st.sampled_from(["s", "m", "h", "d", "w"]))
TIMINGS = st.one_of(
    st.fixed_dictionaries({"interval": TIMES}, optional={"jitter": TIMES, "grace": TIMES, "coalesce": st.booleans()}),
    st.fixed_dictionaries(
        {"cron": st.sampled_from(["0 2 * * *", "*/5 1-3 * * 1-5", "30 4 1 * *"])}, optional={"timezone": st.just("Europe/Paris")}
    ),
)
SCHEDULED = st.one_of(TIMINGS.map(lambda timing: {"kind": "incremental", **timing}), st.just({"kind": "journal", "every": "5s"}))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    sources = draw(
        st.dictionaries(
            NAMES,
            st.fixed_dictionaries(
                {}, optional={"tags": st.dictionaries(NAMES, TEXTS, max_size=2), "collections": st.lists(TEXTS, max_size=2)}
            ),
            min_size=1,
            max_size=3,
        )
    )
    for number, one in enumerate(sources.values()):
        one["url"] = f"faiss:///{number}.faiss"
    repositories = {name: {"url": f"/{name}"} for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))}
    policy = st.fixed_dictionaries(
        {"repository": st.sampled_from(sorted(repositories))},
        optional={
            "schedule": st.lists(SCHEDULED, max_size=2),
            "match": st.fixed_dictionaries({}, optional={"collection": st.lists(TEXTS, min_size=1, max_size=2)}),
            "retention": st.builds(lambda count, when: {"keep_daily": count, "when": when}, st.integers(1, 99), TIMINGS),
            "hooks": st.builds(lambda words: {"before": [{"command": ["/bin/x", *words]}]}, st.lists(TEXTS, max_size=2)),
        },
    )
    return {
        "version": 1,
        "sources": sources,
        "repositories": repositories,
        "policies": draw(st.dictionaries(NAMES, policy, min_size=1, max_size=2)),
    }


@settings(max_examples=80, deadline=None)
@given(documents())
def test_what_is_shown_parses_to_the_same(raw: dict[str, Any]) -> None:
    document = reading.read_text(marked.write(raw))
    assert document == Document.model_validate(raw)
    assert reading.read_text(reading.as_text(document)) == document


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.one_of(
            st.text(max_size=8),
            st.integers(-9, 9),
            st.booleans(),
            st.none(),
            st.sampled_from(["no", "1", "1.5", "2020-01-01", "~", "null", "true", "0x1", "1e3"]),
        ),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_yaml_is_written_as_it_is_read(value: Any) -> None:
    assert marked.read(marked.write({"value": value}))[0] == {"value": value}


# -- mistakes --------------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_misspelt_key_is_an_error_with_its_line_and_the_right_name(data: st.DataObject) -> None:
    where, model = data.draw(
        st.sampled_from(
            [
                ("", Document),
                ("sources.docs", Source),
                ("repositories.main", Repository),
                ("policies.p", Policy),
                ("policies.p.retention", Retention),
            ]
        )
    )
    right = data.draw(st.sampled_from([name for name in model.model_fields if len(name) > 4]))
    place = data.draw(st.integers(0, len(right) - 1))
    typo = right[:place] + data.draw(st.sampled_from("qxzj")) + right[place + 1 :]
    assume(typo != right)
    text = with_(f"{where}.{typo}".lstrip("."), "anything")
    [told] = [one for one in wrong(text) if f"unknown key {typo!r}" in one.what]
    assert f"did you mean {right!r}" in told.what
    assert text.splitlines()[told.line - 1].strip().startswith(typo)


def test_each_mistake_has_its_line() -> None:
    text = (
        EXAMPLE.replace("keep_daily: 14", "keep_daily: many")
        .replace("interval: 1h", "interval: 1 h")
        .replace("ceiling", "ceilling")
    )
    lines = text.splitlines()
    found = {lines[one.line - 1].strip().partition(" ")[0]: one.what for one in wrong(text)}
    assert set(found) == {"ceilling:", "-", "retention:", "latency:"}
    assert "90s, 15m, 7d" in found["-"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("policies.p.repository", "mian", "did you mean 'main'"),
        ("policies.p.match", {"source": ["dosc"]}, "did you mean 'docs'"),
        ("policies.p.notifications", ["nobody"], "nothing is called 'nobody'"),
        ("policies.p.residency", {"regions": ["eu-*"]}, "no region"),
        ("policies.p.pitr", {"window": "7d"}, "a journal"),
        ("policies.p.schedule", [{"kind": "full", "cron": "99 * * * *"}], "cron"),
        ("policies.p.schedule", [{"kind": "full", "cron": "0 0 30 2 *"}], "cron"),
        ("policies.p.schedule", [{"kind": "full"}], "either cron or interval"),
        ("policies.p.schedule", [{"kind": "full", "cron": "0 * * * *", "timezone": "Mars/North"}], "time zone"),
        ("policies.p.schedule", [{"kind": "journal", "interval": "5m"}], "followed all the time"),
        ("policies.p.retention", {}, "no rule keeps anything"),
        ("policies.p.objectives", {"rto": "1h"}, "drills"),
        ("sources.more", {"url": "faiss:///x.faiss"}, "it is the URL of 'docs'"),
        ("notifications.n", {"webhook": {"url": "http://example.com/x"}}, "https"),
        (
            "notifications.n",
            {"smtp": {"host": "mail.example.com", "security": "none", "sender": "a@b", "to": ["c@d"]}},
            "in the clear",
        ),
        ("repositories.main.replicas", ["main"], "itself"),
        ("parallel", "2", "integer"),
    ],
)
def test_what_contradicts_itself_is_refused(path: str, value: Any, said: str) -> None:
    assert said in " ".join(str(one) for one in wrong(with_(path, value)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("repositories.main.password", "hunter2"),
        ("sources.docs.api_key", "hunter2"),
        ("sources.docs.url", "pgvector://me:hunter2@host/db"),
        ("sources.docs.url", "qdrant://host:6333?api_key=hunter2"),
        ("policies.p.hooks", {"before": [{"command": ["x", "--password=hunter2"]}]}),
        ("policies.p.hooks", {"before": [{"command": ["x", "--token", "hunter2"]}]}),
        ("notifications.n", {"webhook": {"url": "https://x/", "secret": "hunter2"}}),
    ],
)
def test_a_secret_is_an_error_and_is_not_repeated(path: str, value: Any) -> None:
    problems = wrong(with_(path, value))
    assert any("a secret must not stand in the file" in one.what for one in problems)
    assert "hunter2" not in " ".join(str(one) for one in problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nversion: 1\n", "line 2: 'version' is there twice"),
        ("version: 1\n  sources: 2\n", "line 2"),
        ("version: !!python/object:os.system 1\n", "line 1"),
        ("", "empty"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)),
            "too much",
        ),
        ("a: &a [*a]\n", "line 1|holds too much|recursive"),
        ("a: " + "[" * 2000, "line|deeply"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(WrongRequest, match=said):
        reading.read_text(text)


def test_quantities() -> None:
    assert (seconds("250ms"), seconds("90s"), seconds("1.5h"), seconds("2w")) == (0.25, 90, 5400, 1_209_600)
    assert (size("1B"), size("64KiB"), size("1.5MB")) == (1, 65_536, 1_500_000)
    for text in ("5", "5 s", "s", "-1s", "1y", "٣s"):
        with pytest.raises(WrongRequest):
            seconds(text)
    with pytest.raises(WrongRequest):
        size("5")


# -- what is published -----------------------------------------------------------------------------------------------------


def test_the_schema_in_the_documentation_is_the_models() -> None:
    assert json.loads((DOCS / "strongroom.schema.json").read_text()) == schema()


def test_the_example_in_the_documentation_is_right_for_both() -> None:
    document = reading.read_text(EXAMPLE)
    assert document.policies["production"].pitr is not None
    plain = marked.read(EXAMPLE)[0]
    jsonschema.validate(plain, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "polices": {}}, schema())
