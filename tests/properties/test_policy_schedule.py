"""When is what due? Cron over clock changes, missed runs, jitter, the plan; whom policies are for; how fast a source is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.policy.document import Document, Match, Source, Timing
from strongroom.policy.objectives import Standing, turned
from strongroom.policy.pressure import Allowance, Share
from strongroom.policy.retention import Dated, Duration, Rules, decide, together
from strongroom.policy.schedule import a_day, coming, due, moments, shifted
from strongroom.policy.tasks import Seen, Work, plan, reason, replicated, rules_of, scheduled_a_day, tasks_of

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOURLY = Timing(interval="1h")


def cron(expression: str, after: datetime, count: int, timezone: str = "Europe/Berlin") -> list[str]:
    return [one.isoformat() for one in islice(moments(Timing(cron=expression, timezone=timezone), after), count)]


def test_where_the_clocks_go_forward_what_is_left_out_runs_right_after() -> None:
    found = cron("30 2 * * *", datetime(2026, 3, 28, 0, tzinfo=UTC), 3)
    assert found == ["2026-03-28T01:30:00+00:00", "2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00"]


def test_where_the_clocks_go_back_what_has_a_fixed_hour_runs_once() -> None:
    found = cron("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert found == ["2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"]
    assert len(cron("0 * * * *", datetime(2026, 10, 24, 23, tzinfo=UTC), 4)) == len(
        set(cron("0 * * * *", datetime(2026, 10, 24, 23, tzinfo=UTC), 4))
    )


def test_cron_counts_days_of_the_week_from_sunday() -> None:
    assert cron("0 0 * * 0", NOON, 1, "UTC") == ["2026-03-15T00:00:00+00:00"]
    assert datetime.fromisoformat(cron("0 0 * * 0", NOON, 1, "UTC")[0]).strftime("%a") == "Sun"


@pytest.mark.parametrize(
    ("timing", "most"),
    [
        (Timing(interval="1h"), 24),
        (Timing(interval="7h"), 4),
        (Timing(interval="3d"), 1),
        (Timing(cron="*/15 9-16 * * 1-5"), 32),
        (Timing(cron="0 0 1 1 *"), 1),
        (Timing(cron="0 22,23,0,1 * * 6"), 4),
    ],
)
def test_how_often_a_day_at_most(timing: Timing, most: int) -> None:
    assert a_day(timing, NOON) == most


def test_what_policies_make_of_a_source_in_one_repository_is_no_flood() -> None:
    document = Document.model_validate(
        {
            "version": 1,
            "sources": {"docs": {"url": "faiss:/a"}, "other": {"url": "faiss:/b"}},
            "repositories": {name: {"url": f"/{name}", "password_env": "P"} for name in ("main", "second")},
            "policies": {
                "often": {"repository": "main", "schedule": [{"kind": "incremental", "interval": "1h"}, {"kind": "journal"}]},
                "daily": {
                    "repository": "main",
                    "match": {"source": ["docs"]},
                    "schedule": [{"kind": "full", "interval": "1d"}],
                    "retention": {"keep_last": 3},
                },
            },
        }
    )
    tasks = tasks_of(document)
    assert scheduled_a_day(tasks, "docs", "main", NOON) == 24 + 1 + 2
    assert scheduled_a_day(tasks, "other", "main", NOON) == 24 + 2
    assert scheduled_a_day(tasks, "docs", "second", NOON) == 2


@settings(max_examples=200)
@given(st.floats(0, 90_000), st.booleans(), st.none() | st.sampled_from(["1s", "20m", "3h"]), st.sampled_from(["0s", "30m"]))
def test_what_was_missed_is_run_once_or_each_and_never_lost(late: float, coalesce: bool, grace: str | None, jitter: str) -> None:
    timing = Timing(interval="1h", coalesce=coalesce, grace=grace, jitter=jitter)
    now = NOON + timedelta(seconds=late)
    found = due("x", timing, NOON, now)
    passed = [one for one in (NOON + timedelta(hours=n) for n in range(1, 30)) if shifted("x", timing, one) <= now]
    if not passed:
        assert found is None
        return
    assert found is not None
    assert found.newest == passed[-1]
    assert len(found.moments) + found.passed_over == len(passed)
    limit = {None: math.inf, "1s": 1, "20m": 1200, "3h": 10_800}[grace]
    assert found.missed == ((now - shifted("x", timing, passed[-1])).total_seconds() > limit)
    assert len(found.moments) == 1 or not coalesce
    assert due("x", timing, found.newest, now) is None


def test_years_of_absence_are_one_run_found_at_once() -> None:
    found = due("x", Timing(interval="1s"), NOON, NOON + timedelta(days=3650))
    assert found is not None
    assert (found.newest, len(found.moments)) == (NOON + timedelta(days=3650), 1)
    every_minute = due("x", Timing(cron="* * * * *"), NOON, NOON + timedelta(days=2))
    assert every_minute is not None
    assert every_minute.newest == NOON + timedelta(days=2)


@given(st.text(min_size=1, max_size=9), st.integers(0, 10**6))
def test_jitter_is_bounded_and_the_same_each_time(name: str, number: int) -> None:
    timing, moment = Timing(interval="1h", jitter="10m"), NOON + timedelta(seconds=number)
    at = shifted(name, timing, moment)
    assert moment <= at < moment + timedelta(minutes=10)
    assert at == shifted(name, timing, moment)


def test_jitter_differs_between_tasks() -> None:
    assert len({shifted(str(n), Timing(interval="1h", jitter="10m"), NOON) for n in range(50)}) == 50


# -- the plan --------------------------------------------------------------------------------------------------------------

DOCUMENT = Document.model_validate(
    {
        "version": 1,
        "sources": {
            "docs": {"url": "faiss:///1", "tags": {"env": "prod"}, "collections": ["wiki"]},
            "logs": {"url": "faiss:///2", "tenants": ["acme"]},
        },
        "repositories": {"main": {"url": "/r"}},
        "policies": {
            "often": {
                "repository": "main",
                "match": {"tag": {"env": "prod"}},
                "schedule": [{"kind": "incremental", "interval": "6h"}, {"kind": "journal", "every": "5s"}],
                "retention": {"keep_daily": 7},
                "pitr": {"window": "3d"},
            },
            "weekly": {
                "repository": "main",
                "schedule": [{"kind": "full", "cron": "0 2 * * 0"}],
                "retention": {"keep_monthly": 12, "keep_daily": 2, "keep_within": "2d"},
                "verification": {"checks": [{"level": "data", "when": {"cron": "0 5 * * *"}}]},
            },
        },
    }
)


def test_the_plan_says_what_runs_when_and_why() -> None:
    tasks = tasks_of(DOCUMENT)
    last = {task.name: NOON for task in tasks}
    found = plan(tasks, last, NOON, NOON + timedelta(days=7))
    assert [one.work for one in found.always] == [Work.JOURNAL]
    incremental = [one for one in found.planned if one.task.work is Work.INCREMENTAL]
    assert len(incremental) == 28
    assert incremental[0].task.why == "policy often: tag env=prod"
    full = [(one.task.source, one.at) for one in found.planned if one.task.work is Work.FULL]
    assert full == [(name, datetime(2026, 3, 15, 2, tzinfo=UTC)) for name in ("docs", "logs")]
    assert [one.at for one in found.planned] == sorted(one.at for one in found.planned)
    assert sum(one.task.work is Work.VERIFY for one in found.planned) == 7


def test_the_plan_and_what_is_done_agree() -> None:
    """Minute by minute, what `due` gives is what the plan said."""
    tasks = [task for task in tasks_of(DOCUMENT) if task.timing]
    last = {task.name: NOON for task in tasks}
    planned = [(one.task.name, one.due) for one in plan(tasks, last, NOON, NOON + timedelta(days=2)).planned]
    done = []
    for minute in range(1, 2 * 1440 + 1):
        for task in tasks:
            found = due(task.name, task.timing, last[task.name], NOON + timedelta(minutes=minute))
            if found:
                done += [(task.name, one) for one in found.moments]
                last[task.name] = found.newest
    assert sorted(done) == sorted(planned)
    assert list(coming("x", HOURLY, NOON, NOON)) == []


@pytest.mark.parametrize(
    ("match", "why"),
    [
        ({}, "every source"),
        ({"source": ["d*"]}, "source docs"),
        ({"source": ["x"]}, None),
        ({"collection": ["wi*"]}, "collection wiki"),
        ({"collection": ["late"]}, "collection late"),
        ({"tenant": ["*"]}, None),
        ({"tag": {"env": "pr*"}}, "tag env=prod"),
        ({"source": ["docs"], "tag": {"env": "dev"}}, None),
    ],
)
def test_a_policy_is_for_what_matches_all_of_it(match: dict[str, object], why: str | None) -> None:
    source = Source.model_validate({"url": "faiss:///1", "tags": {"env": "prod"}, "collections": ["wiki"]})
    assert reason("docs", source, Match.model_validate(match), Seen(("late",))) == why


# -- retention -------------------------------------------------------------------------------------------------------------


def test_what_one_policy_keeps_no_other_forgets() -> None:
    within = Duration.parse("2d")
    assert rules_of(DOCUMENT, "docs", "main") == Rules(daily=7, monthly=12, within=within, pitr=Duration.parse("3d"))
    assert rules_of(DOCUMENT, "logs", "main") == Rules(daily=2, monthly=12, within=within)


AGES = st.lists(st.integers(0, 5000), min_size=1, max_size=25, unique=True)
RULES = st.builds(
    Rules,
    last=st.integers(0, 3),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 3),
    within=st.none() | st.just(Duration(days=3)),
    pitr=st.none() | st.just(Duration(days=5)),
)


def kept(ages: list[int], rules: Rules) -> set[str]:
    dated = [Dated(str(age), NOON - timedelta(hours=age)) for age in ages]
    return {one.id for one in decide(dated, rules, NOON) if one.keep}


@given(AGES, RULES, RULES)
def test_rules_together_keep_all_that_either_keeps(ages: list[int], first: Rules, other: Rules) -> None:
    assert kept(ages, first) | kept(ages, other) <= kept(ages, together(first, other))


@given(AGES, st.integers(1, 5000))
def test_each_moment_of_the_pitr_window_has_a_snapshot_before_it(ages: list[int], hours: int) -> None:
    left = kept(ages, Rules(last=1, pitr=Duration(hours=hours)))
    for moment in range(hours + 1):
        before = [age for age in ages if age >= moment]
        if before:
            assert str(min(before)) in left


# -- objectives and pressure -----------------------------------------------------------------------------------------------


def test_objectives_are_broken_and_recovered_once() -> None:
    old, fine, none = (Standing("p", name, "RPO", 60, age) for name, age in (("a", 61.0), ("b", 60.0), ("c", None)))
    broken, met = turned([old, fine, none], {"p/b/RPO"})
    assert (broken, met) == ([old, none], [fine])
    assert turned([old, none], {old.name, none.name}) == ([], [])


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 2)), min_size=1, max_size=50))
def test_a_rate_is_never_exceeded(asked: list[tuple[int, float]]) -> None:
    allowance, now, sent = Allowance(100_000), 0.0, 0
    for amount, idle in asked:
        now += idle
        now += allowance.take(amount, now)
        sent += amount
        assert sent <= 100_000 * now + 25_000 + 1


def test_a_slow_source_is_read_less_then_not_at_all_and_then_again() -> None:
    share = Share(0.1)
    assert share.rest(1.0) == 0
    rests = []
    for _ in range(4):
        share.saw(0.2)
        rests.append(share.rest(1.0))
    assert rests == [1, 3, 7, 15]
    share.saw(math.inf)
    assert share.paused
    share.saw(0.05)
    assert not share.paused
    for _ in range(8):
        share.saw(0.05)
    assert share.rest(1.0) == 0
    share.saw(0.2)
    share.saw(0.09)  # below the ceiling, but not well below
    assert share.share == 0.5


def test_a_replica_is_one_task_whoever_names_it_and_gets_what_its_policies_want() -> None:
    document = Document.model_validate(
        {
            "version": 1,
            "sources": {"docs": {"url": "faiss:///d"}, "people": {"url": "faiss:///p"}, "more": {"url": "faiss:///m"}},
            "repositories": {
                "main": {"url": "/main", "replicas": ["all"]},
                "all": {"url": "/all", "replication": {"when": {"cron": "0 3 * * *"}}},
                "some": {"url": "/some", "replication": {"when": {"interval": "30s"}}},
            },
            "policies": {
                "p": {"repository": "main", "match": {"source": ["docs"]}, "replicas": ["some"]},
                "q": {"repository": "main", "match": {"source": ["people"]}, "replicas": ["some", "all"]},
            },
        }
    )
    found = {task.other: task for task in tasks_of(document)}
    assert {name: (one.work, one.why) for name, one in found.items()} == {
        "all": (Work.REPLICATE, "policy p, q"),
        "some": (Work.REPLICATE, "policy p, q"),
    }
    assert replicated(document, "main", "all", {}) is None
    assert replicated(document, "main", "some", {}) == ("docs", "people")
    planned = plan(list(found.values()), {}, NOON, NOON + timedelta(days=2))
    assert planned.always == (found["some"],)
    assert {one.task.other for one in planned.planned} == {"all"}
