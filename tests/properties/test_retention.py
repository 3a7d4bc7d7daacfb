"""Do the rules keep the newest of each period, say why, and never let a wrong clock push out what is real?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.errors import WrongRequest
from strongroom.policy import retention
from strongroom.policy.retention import PERIODS, Dated, Decision, Duration, Rules, Trust, fullest_day

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
YEARS = 4

moments = st.one_of(
    st.integers(0, YEARS * 365 * 24 * 60).map(lambda minutes: NOW - timedelta(minutes=minutes)),
    st.integers(0, 72).map(lambda hours: NOW - timedelta(hours=hours)),  # many in one day, and equal ones
)
tags = st.dictionaries(st.sampled_from(["env", "keep"]), st.sampled_from(["a", "b"]), max_size=2)
histories = st.lists(st.tuples(moments, tags), max_size=60).map(
    lambda made: [Dated(f"{number:03}", at, tag) for number, (at, tag) in enumerate(made)]
)
counts = st.integers(0, 8)
durations = st.builds(Duration, st.integers(0, 2), st.integers(0, 14), st.integers(0, 40), st.integers(0, 50))
rules = st.builds(
    Rules,
    last=counts,
    hourly=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    within=st.none() | durations,
    tags=st.lists(st.tuples(st.sampled_from(["env", "keep"]), st.none() | st.just("a")), max_size=1).map(tuple),
)


def decide(snapshots: list[Dated], asked: Rules, now: datetime) -> list[Decision]:
    """With nothing to doubt: any number a day is genuine."""
    return retention.decide(snapshots, asked, now, Trust(a_day=1000))


def kept(decisions: list[Decision]) -> set[str]:
    return {decision.id for decision in decisions if decision.keep}


def newest_first(snapshots: list[Dated]) -> list[Dated]:
    return sorted(snapshots, key=lambda one: (one.at, one.id), reverse=True)


@given(histories, rules)
def test_every_snapshot_has_one_fate_and_a_reason(snapshots: list[Dated], asked: Rules) -> None:
    decisions = decide(snapshots, asked, NOW)
    assert [one.id for one in decisions] == [one.id for one in newest_first(snapshots)]
    assert all(one.reasons for one in decisions)
    assert all(one.keep != (one.reasons == ("no rule keeps it",)) for one in decisions)


@given(histories, st.sampled_from(sorted(PERIODS)), st.integers(1, 8))
def test_a_rule_keeps_the_newest_of_each_of_the_newest_periods(snapshots: list[Dated], name: str, count: int) -> None:
    """Told in another way: the greatest of each period, of which the last `count`; and the oldest while there is room."""
    by_period: dict[tuple[int, ...], Dated] = {}
    for one in reversed(newest_first(snapshots)):
        by_period[PERIODS[name](one.at)] = one
    expected = {one.id for one in newest_first(list(by_period.values()))[:count]}
    if snapshots and len(by_period) < count:
        expected.add(newest_first(snapshots)[-1].id)
    assert kept(decide(snapshots, Rules(**{name: count}), NOW)) == expected


@given(histories, st.integers(1, 8))
def test_last_keeps_the_newest(snapshots: list[Dated], count: int) -> None:
    assert kept(decide(snapshots, Rules(last=count), NOW)) == {one.id for one in newest_first(snapshots)[:count]}


@given(histories, rules)
def test_rules_add_up(snapshots: list[Dated], asked: Rules) -> None:
    """What any rule keeps alone is kept, and nothing else."""
    alone = [Rules(**{name: getattr(asked, name)}) for name in ("last", *PERIODS, "within", "tags")]
    assert kept(decide(snapshots, asked, NOW)) == set().union(*(kept(decide(snapshots, one, NOW)) for one in alone))


@given(histories, rules)
def test_what_is_kept_is_kept_again(snapshots: list[Dated], asked: Rules) -> None:
    """A second forget with the same rules forgets nothing."""
    first = kept(decide(snapshots, asked, NOW))
    assert kept(decide([one for one in snapshots if one.id in first], asked, NOW)) == first


@given(histories, rules, st.randoms())
def test_the_order_in_which_they_are_given_does_not_matter(snapshots: list[Dated], asked: Rules, random) -> None:
    shuffled = list(snapshots)
    random.shuffle(shuffled)
    assert decide(shuffled, asked, NOW) == decide(snapshots, asked, NOW)


@given(histories, rules, st.integers(1, 100_000))
def test_a_snapshot_of_the_future_stays_and_pushes_nothing_out(snapshots: list[Dated], asked: Rules, minutes: int) -> None:
    future = Dated("future", NOW + timedelta(minutes=minutes))
    decisions = decide([*snapshots, future], asked, NOW)
    assert decisions[0] == Decision("future", True, ("made in the future",))
    assert decisions[1:] == decide(snapshots, asked, NOW)


@given(histories.filter(bool), durations)
def test_within_counts_from_the_newest_and_not_from_now(snapshots: list[Dated], within: Duration) -> None:
    """A source that is backed up no more keeps what it had."""
    newest = newest_first(snapshots)[0].at
    expected = {one.id for one in snapshots if one.at >= within.before(newest)}
    assert kept(decide(snapshots, Rules(within=within), NOW)) == expected
    assert newest_first(snapshots)[0].id in expected


def test_all_reasons_are_told() -> None:
    made = [Dated(str(n), datetime(2026, 11, 25 - n, 8, tzinfo=UTC), {"env": "prod"} if n == 2 else {}) for n in range(4)]
    asked = Rules(last=1, daily=2, weekly=2, within=Duration(days=1), tags=(("env", "prod"),))
    assert [(one.keep, one.reasons) for one in decide(made, asked, NOW)] == [
        (True, ("last 1 of 1", "daily 1 of 2", "weekly 1 of 2", "within 1d")),
        (True, ("daily 2 of 2", "within 1d")),
        (True, ("tag env=prod",)),
        (True, ("weekly 2 of 2",)),  # 22 November 2026 is a Sunday
    ]


def test_the_oldest_stays_while_a_rule_has_room() -> None:
    made = [Dated(str(n), datetime(2026, 11, 25, 10 - n, tzinfo=UTC)) for n in range(3)]
    assert [one.reasons for one in decide(made, Rules(yearly=2), NOW)] == [
        ("yearly 1 of 2",),
        ("no rule keeps it",),
        ("yearly, the oldest",),
    ]


def test_of_two_made_in_one_moment_the_greater_id_is_newer() -> None:
    made = [Dated("a", NOW), Dated("b", NOW)]
    assert kept(decide(made, Rules(last=1), NOW)) == {"b"}
    assert kept(decide(made, Rules(hourly=1), NOW)) == {"b"}


def test_weeks_and_years_are_those_of_iso_and_utc() -> None:
    """31 December 2024 lies in the first week of 2025."""
    made = [Dated("a", datetime(2024, 12, 31, 23, 59, tzinfo=UTC)), Dated("b", datetime(2025, 1, 1, 0, 1, tzinfo=UTC))]
    assert kept(decide(made, Rules(weekly=1), NOW)) == {"b"}
    assert kept(decide(made, Rules(yearly=2), NOW)) == {"a", "b"}
    assert kept(decide(made, Rules(daily=2), NOW)) == {"a", "b"}


@given(durations)
def test_a_duration_reads_what_it_writes(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("14d", datetime(2026, 3, 17, 12, tzinfo=UTC)),
        ("1m", datetime(2026, 2, 28, 12, tzinfo=UTC)),  # there is no 31 February
        ("1y1m", datetime(2025, 2, 28, 12, tzinfo=UTC)),
        ("25h", datetime(2026, 3, 30, 11, tzinfo=UTC)),
        ("2y5m7d3h", datetime(2023, 10, 24, 9, tzinfo=UTC)),
        ("9999y", datetime(1, 1, 1, tzinfo=UTC)),
        ("99999m", datetime(1, 1, 1, tzinfo=UTC)),
        ("0", datetime(2026, 3, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_duration_goes_back_by_the_calendar(text: str, before: datetime) -> None:
    assert Duration.parse(text).before(datetime(2026, 3, 31, 12, tzinfo=UTC)) == before


@pytest.mark.parametrize("text", ["", "d", "14", "-1d", "3h2d", "1.5d", "1w", " 1d", "1d ", "１d", "1D"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(WrongRequest):
        Duration.parse(text)


def test_no_rule_is_no_rules() -> None:
    assert not Rules()
    assert Rules(last=1)
    assert Rules(within=Duration())


# -- who can only add snapshots makes no other one go ------------------------------------------------------------------------

genuine = st.dictionaries(st.integers(1, 90), st.lists(st.integers(0, 23), min_size=1, max_size=3), min_size=1, max_size=40).map(
    lambda days: [
        Dated(f"g{day:03}-{number}", NOW.replace(hour=0) - timedelta(days=day) + timedelta(hours=hour))
        for day, hours in days.items()
        for number, hour in enumerate(hours)
    ]
)


def stored(one: Dated) -> Dated:
    return Dated(one.id, one.at, one.tags, one.at + timedelta(minutes=5))


@given(genuine, rules, st.integers(0, 30), st.integers(4, 60), st.booleans(), st.data())
def test_no_flood_makes_a_genuine_snapshot_go(snapshots: list[Dated], asked: Rules, day: int, count: int, claims, data) -> None:
    """However many more a day than ever before, and whatever they say of when they were made and of their tags: the store knows."""
    real = [stored(one) for one in snapshots]
    first = min(one.at for one in real)
    arrival = max(NOW.replace(hour=0) - timedelta(days=day), first.replace(hour=0) + timedelta(days=1))
    fakes = []
    for number in range(count):
        at = min(arrival + timedelta(minutes=number), NOW)
        claimed = data.draw(moments) if claims else at
        fakes.append(Dated(f"~{number:03}", claimed, data.draw(tags), at))
    honest = [one for one in fakes if -retention.AHEAD <= one.stored - one.at <= retention.LATE]
    crowds = {one.at.date() for one in honest}
    usual = max(sum(1 for one in real if one.at.date() == date) for date in {one.at.date() for one in real})
    if any(sum(1 for one in honest if one.at.date() == date) <= usual for date in crowds):
        return  # no flood on one of the days: the next test has these
    without = kept(retention.decide(real, asked, NOW))
    beside = retention.decide([*real, *fakes], asked, NOW)
    assert without <= kept(beside)
    assert all(one.doubted for one in beside if one.id.startswith("~"))


@given(genuine, rules, st.lists(moments, min_size=1, max_size=200))
def test_what_was_not_stored_when_it_says_counts_for_nothing(snapshots: list[Dated], asked: Rules, said: list[datetime]) -> None:
    """Any number, dated anywhere but to when they came."""
    real = [stored(one) for one in snapshots]
    fakes = [Dated(f"~{number:03}", at, {}, at + timedelta(days=3)) for number, at in enumerate(said)]
    decisions = retention.decide([*real, *fakes], asked, NOW)
    assert [one for one in decisions if not one.doubted] == [one for one in retention.decide(real, asked, NOW) if not one.doubted]
    assert all(one.keep for one in decisions if one.id.startswith("~"))


def test_a_copy_counts_if_somebody_vouches_for_it() -> None:
    made = [Dated(str(n), NOW - timedelta(days=n), {}, NOW) for n in range(5)]
    assert kept(retention.decide(made, Rules(last=1), NOW)) == {"0", "1", "2", "3", "4"} - {"1", "2"}
    assert kept(retention.decide(made, Rules(last=1), NOW, Trust(created=True))) == {"0"}


def test_what_was_usual_is_remembered_when_rules_thinned_it_out() -> None:
    today = [Dated(str(n), NOW - timedelta(hours=n)) for n in range(12)]
    before = [Dated("old", NOW - timedelta(days=2))]
    crowded = retention.decide([*today, *before], Rules(last=1), NOW)
    assert len(kept(crowded)) == 13
    assert "never more than 1 a day before" in crowded[0].reasons[0]
    assert kept(retention.decide([*today, *before], Rules(last=1), NOW, Trust(usual=13))) == {"0"}
    assert fullest_day([*today, *before], crowded) == 1


def test_what_a_schedule_asks_for_is_no_flood_and_more_than_that_is() -> None:
    today = [Dated(str(n), NOW - timedelta(hours=n)) for n in range(12)]
    before = [Dated("old", NOW - timedelta(days=2))]
    assert kept(retention.decide([*today, *before], Rules(last=1), NOW, Trust(scheduled=12))) == {"0"}
    assert kept(retention.decide([*today, *before], Rules(last=1), NOW, Trust(usual=2, scheduled=11))) == {
        str(n) for n in range(12)
    } | {"old"}
