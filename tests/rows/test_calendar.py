"""Each instant is in exactly one partition, half-open, whatever clocks do; windows and refit grids hang on the calendar alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.rows.calendar import Calendar, next_clock, rank, require_cron

# Half-hour steps, days that clocks skipped (Apia 2011-12-30), days that begin at 01:00 (Havana, Sao Paulo), both hemispheres.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana"]
ZONES += ["America/Sao_Paulo", "Asia/Kolkata"]
DATED = st.sampled_from(["day", "week", "month"])
calendars = st.builds(Calendar, DATED, st.sampled_from(ZONES))
instants = st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 1), timezones=st.just(UTC))
days = st.dates(date(1971, 1, 1), date(2037, 12, 1))


def name_of(calendar: Calendar, value: object) -> str:
    name = calendar.name_of(value)
    assert name is not None
    return name


@given(calendars, instants)
def test_each_instant_is_in_exactly_one_partition_and_that_is_half_open(calendar: Calendar, at: datetime) -> None:
    name = name_of(calendar, at)
    assert calendar.ends(calendar.step(name, -1)).astimezone(UTC) <= at < calendar.ends(name).astimezone(UTC)
    assert calendar.ends(calendar.newest_complete(at)).astimezone(UTC) <= at


@pytest.mark.parametrize("zone", ZONES)
def test_no_instant_of_a_year_of_changing_clocks_falls_between_two_days(zone: str) -> None:
    """Every quarter of an hour of 2011 and of 2026: the days follow one another, none is left or met again."""
    calendar = Calendar("day", zone)
    for year in (2011, 2026):
        at, names = datetime(year, 1, 1, tzinfo=UTC), list[str]()
        while at.year == year:
            name = name_of(calendar, at)
            if not names or names[-1] != name:
                names.append(name)
                if len(names) > 1:  # the first instant of a day is where the one before it ended
                    assert calendar.ends(names[-2]).astimezone(UTC) <= at
            at += timedelta(minutes=15)
        skipped = {"2011-12-30"} if zone == "Pacific/Apia" else set()
        assert set(names) == set(calendar.between(names[0], names[-1])) - skipped
        assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("UTC", "2028-02-29", 24),
    ],
)
def test_days_are_as_long_as_their_clocks_say(zone: str, day: str, hours: float) -> None:
    calendar = Calendar("day", zone)
    begins = calendar.ends(calendar.step(day, -1)).astimezone(UTC)
    assert calendar.ends(day).astimezone(UTC) - begins == timedelta(hours=hours)
    assert calendar.name_of(begins) == day == calendar.name_of(begins + timedelta(hours=hours, microseconds=-1))


def test_an_instant_with_an_offset_is_seen_in_the_time_zone_and_one_without_is_local() -> None:
    berlin = Calendar("day", "Europe/Berlin")
    for value in ("2026-10-25T22:59:59Z", "2026-10-25T23:59:59", "2026-10-25 00:00:00+02:00", "20261025", 20261025):
        assert berlin.name_of(value) == "2026-10-25"
    assert berlin.name_of("2026-10-25T23:00:00Z") == "2026-10-26"
    assert Calendar("day").name_of("2026-10-25T23:59:59.999999Z") == "2026-10-25"
    assert Calendar("day").name_of("2026-10-26T00:00:00Z") == "2026-10-26"


def test_years_of_weeks_are_those_of_their_thursdays() -> None:
    weeks = {"2026-12-31": "2026-W53", "2027-01-03": "2026-W53", "2027-01-04": "2027-W01", "2024-12-30": "2025-W01"}
    calendar = Calendar("week")
    assert {day: calendar.name_of(day) for day in weeks} == weeks
    assert calendar.step("2026-W53", 1) == "2027-W01" and calendar.step("2027-W01", -1) == "2026-W53"


@pytest.mark.parametrize("value", [20261001, 20261001.0, Decimal(20261001), "20261001", "2026-10-01"])
def test_a_day_may_be_a_whole_number_of_any_type(value: object) -> None:
    assert Calendar("day").name_of(value) == "2026-10-01"


@pytest.mark.parametrize("every", ["day", "week", "month"])
@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "2026", "2026-02-29", "2026-13", "2026-W54", "0001-01-01", "9999-12-31", "../../x", "2026-10-01x"),
        *(
            1.5,
            float("nan"),
            float("inf"),
            Decimal("20261001.5"),
            Decimal("NaN"),
            True,
            17900000000,
            "٢٠٢٦-١٠-٠١",
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, tzinfo=UTC),
            b"x",
        ),
    ],
)
def test_what_is_no_day_is_in_no_partition(every: str, value: object) -> None:
    assert Calendar(every, "America/New_York").name_of(value) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "2026-10-24 00:30:00 UTC",  # BigQuery
        "2026-10-24 00:30:00.123456 UTC",
        "2026-10-24 00:30:00.000 +0000",  # Snowflake
        "2026-10-23 17:30:00.000 -0700",
        "2026-10-23 20:30:00 America/New_York",
        "2026-10-24T00:30:00Z",
        "2026-10-24 00:30:00+00",  # Postgres
        "2026-10-24 00:30:00.123456789 +0000",
        "2026/10/24 00:30:00 UTC",
        " 2026-10-24 00:30:00 UTC ",
        1792801800,
        "1792801800",
        1792801800000,
        "1792801800123",
        1792801800123456,
        "1792801800123456789",
        1792801800.0,
        Decimal(1792801800),
    ],
)
def test_an_instant_is_read_as_warehouses_write_it_and_seen_in_the_time_zone(value: object) -> None:
    assert Calendar("day").name_of(value) == "2026-10-24"
    assert Calendar("day", "America/Los_Angeles").name_of(value) == "2026-10-23"
    assert Calendar("week").name_of(value) == "2026-W43" and Calendar("month").name_of(value) == "2026-10"


@given(instants)
def test_an_instant_is_in_the_same_partition_whichever_way_it_is_written(at: datetime) -> None:
    calendar, seconds = Calendar("day", "Australia/Lord_Howe"), int(at.timestamp())
    wanted = calendar.name_of(at)
    if 1_000_000_000 <= seconds < 1_900_000_000:
        for unit in (1, 1000, 10**6, 10**9):
            assert calendar.name_of(seconds * unit) == calendar.name_of(str(seconds * unit)) == wanted
    plain = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert {calendar.name_of(f"{plain}{zone}") for zone in (" UTC", "Z", " +0000", "+00:00", " Etc/UTC")} == {wanted}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("10/24/2026", "day and month may stand either way round; write it as 2026-10-01"),
        ("1/2/26 10:30", "day and month may stand either way round"),
        ("24.10.2026", "does not begin with its year"),
        ("2026-10-24 00:30:00 EST", "letters that mean several time zones"),
        ("2026-10-24 00:30:00 Nowhere/City", "a time zone that nobody knows"),
        (2026102400, "digits of a day and a time"),  # as seconds it would be a day of 2034
        ("20261024003000", "digits of a day and a time"),
        (46319, "neither a day such as 20261001 nor an instant"),  # a day of Excel's
        ("24", "columns.partition"),
        ("Oct 24, 2026", "a date in words"),
        ("0001-01-01", "not a year from 1000"),
        ("x", "no day; write it as 2026-10-01"),
    ],
)
def test_a_form_that_could_mean_two_days_or_none_is_named_with_what_to_write(value: object, why: str) -> None:
    assert Calendar("day").name_of(value) is None
    assert why in Calendar("day").why_not(value)


@given(st.lists(st.integers(-(10**12), 10**12), unique=True))
def test_keys_that_are_numbers_are_ordered_as_numbers(keys: list[int]) -> None:
    assert sorted(map(str, keys), key=rank) == [str(key) for key in sorted(keys)]
    assert sorted([*map(str, keys), "a", "2026-10-01"], key=rank)[len(keys) :] == ["2026-10-01", "a"]


@given(st.lists(days, unique=True))
def test_names_of_days_are_ordered_as_texts(names: list[date]) -> None:
    texts = [day.isoformat() for day in names]
    assert sorted(texts, key=rank) == sorted(texts)


@pytest.mark.parametrize(("every", "value"), [("day", "2026-W40"), ("day", "2026-10"), ("month", "2026-W40")])
def test_a_longer_partitions_name_is_none_of_a_shorter_ones(every: str, value: str) -> None:
    assert Calendar(every).name_of(value) is None  # type: ignore[arg-type]


@given(calendars, days, st.integers(0, 400))
def test_steps_names_and_days_agree(calendar: Calendar, day: date, by: int) -> None:
    name = name_of(calendar, day)
    assert calendar.name_of(name) == name == calendar.name_of(calendar.first_day(name))
    later = calendar.step(name, by)
    assert calendar.step(later, -by) == name and (by == 0 or later > name)
    between = list(calendar.between(name, later))
    assert between == [calendar.step(name, at) for at in range(by + 1)] == sorted(between)


@given(days, st.integers(1, 400))
def test_a_window_of_days_holds_exactly_so_many_of_them(day: date, width: int) -> None:
    calendar, name = Calendar("day"), day.isoformat()
    assert len(list(calendar.between(calendar.window_start(name, width), name))) == width


@given(st.sampled_from(["week", "month"]), days, st.integers(1, 400))
def test_a_window_holds_the_whole_partitions_within_its_days_and_never_none(every: str, day: date, width: int) -> None:
    calendar = Calendar(every)  # type: ignore[arg-type]
    name = name_of(calendar, day)
    end, first = calendar.first_day(calendar.step(name, 1)), calendar.window_start(name, width)
    assert first <= name
    assert first == name or (end - calendar.first_day(first)).days <= width
    assert (end - calendar.first_day(calendar.step(first, -1))).days > width


@given(calendars, days, st.integers(1, 100))
def test_a_boundary_is_never_ahead_hangs_on_the_grid_alone_and_is_not_older_than_its_step(
    calendar: Calendar, day: date, width: int
) -> None:
    name = name_of(calendar, day)
    boundary = calendar.boundary(name, width)
    assert boundary <= name and calendar.boundary(boundary, width) == boundary
    assert boundary <= calendar.boundary(calendar.step(name, 1), width)
    inside = list(calendar.between(boundary, name))
    assert {calendar.boundary(other, width) for other in inside} == {boundary}
    ends = (calendar.first_day(calendar.step(other, 1)) for other in (boundary, name))
    assert -(next(ends) - next(ends)).days < width + 31


def test_refits_every_seven_days_use_sundays_data() -> None:
    calendar = Calendar("day")
    found = [calendar.boundary(name, 7) for name in calendar.between("2026-10-03", "2026-10-12")]
    assert found == ["2026-09-27"] + ["2026-10-04"] * 7 + ["2026-10-11"] * 2
    assert date.fromisoformat("2026-10-04").strftime("%A") == "Sunday"


def test_windows_and_grids_as_wide_as_can_be_written_end_where_the_calendar_does() -> None:
    for every, name in (("day", "2026-10-01"), ("week", "2026-W40"), ("month", "2026-10")):
        calendar = Calendar(every)  # type: ignore[arg-type]
        assert calendar.window_start(name, 999_999) < "1002" and calendar.boundary(name, 999_999) <= name
        assert calendar.step(name, -999_999) < "1002"


@given(st.times().map(lambda at: time(at.hour, at.minute)), instants, st.sampled_from(ZONES))
def test_the_next_time_a_clock_shows_it_is_within_about_a_day(clock: time, now: datetime, zone: str) -> None:
    at = next_clock(clock, now, zone).astimezone(UTC)
    assert timedelta() < at - now <= timedelta(hours=49)  # a day that clocks skip is a day longer
    local = at.astimezone(ZoneInfo(zone))
    shown = timedelta(hours=local.hour, minutes=local.minute) - timedelta(hours=clock.hour, minutes=clock.minute)
    assert shown % timedelta(days=1) <= timedelta(hours=1)  # later only where clocks skip it


@pytest.mark.parametrize(
    ("cron", "named"),
    [
        ("99 99 * * *", "minute: expected 0 to 59"),
        ("0 24 * * *", "hour: expected 0 to 23"),
        ("0 2 0 * *", "day of month: expected 1 to 31"),
        ("0 2 * 13 *", "month: expected 1 to 12, or jan to dec"),
        ("0 2 * * 8", "day of week: expected 0 to 7, or sun to sat"),
        ("0 2 * * fri#9", "day of week"),
        ("0 2 * * sun-x", "day of week"),
        ("*/0 * * * *", "minute"),
        ("R 2 * * *", "minute"),
        ("0 2 * *", "expected five fields"),
        ("@daily", "expected five fields"),
    ],
)
def test_a_cron_that_no_scheduler_takes_is_refused_by_its_field(cron: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        require_cron(cron)


VALUES = st.sampled_from(["0", "1", "05", "7", "12", "31", "59", "60", "sun", "Fri", "dec", "L", "x", ""])
PARTS = st.one_of(
    VALUES,
    st.just("*"),
    st.builds("{}-{}".format, VALUES, VALUES),
    st.builds("{}/{}".format, st.one_of(st.just("*"), VALUES), VALUES),
    st.sampled_from(["?", "L5", "fri#2", "x#2", "H", "R", "1-5/2", "L7", "5L", "15W"]),
)
FIELDS = st.one_of(st.sampled_from(["*", "2"]), st.lists(PARTS, min_size=1, max_size=3).map(",".join))


@given(st.lists(FIELDS, min_size=5, max_size=5).map(" ".join))
def test_a_cron_that_is_taken_here_is_taken_by_the_scheduler(cron: str) -> None:
    from augmill.flows.orchestration.logs import prepare_prefect

    prepare_prefect()  # whoever imports Prefect first in a process decides how it logs
    from prefect.client.schemas.schedules import CronSchedule

    try:
        require_cron(cron)
    except ValueError:
        return
    CronSchedule(cron=cron, timezone="UTC", day_or=True)


_DAYS = st.sampled_from(
    ["29", "30", "31", "30,31", "29-31", "30-31/1", "31-2", "*/30", "*/7", "L", "?", "31/2", "28,31"]
)
_MONTHS = st.sampled_from(
    ["2", "feb", "4", "2,4", "4,jun", "apr-jun/2", "2-4", "11-2", "*", "*/2", "2/2", "4/7", "sep"]
)


@settings(deadline=None)
@given(_DAYS, _MONTHS, st.sampled_from(["*", "?", "1", "mon-fri", "fri#2", "L5"]))
def test_a_cron_is_taken_where_the_scheduler_finds_a_day_for_it(day: str, month: str, weekday: str) -> None:
    from augmill.flows.orchestration.logs import prepare_prefect

    prepare_prefect()
    from prefect.server.schemas.schedules import CronSchedule

    cron, found = f"0 2 {day} {month} {weekday}", True
    try:
        asyncio.run(CronSchedule(cron=cron, timezone="UTC", day_or=True).get_dates(1))
    except ValueError as error:  # croniter's: it looks fifty years ahead
        assert "failed to find" in str(error)
        found = False
    if {"#", "L"} & set(weekday) and day != "?":
        with pytest.raises(ValueError, match="not both"):
            require_cron(cron)
    elif found:
        require_cron(cron)
    else:
        with pytest.raises(ValueError, match="never starts anything"):
            require_cron(cron)


@pytest.mark.parametrize(
    "cron",
    ["0 2 * * *", "*/15 22-4 1,15 jan-mar mon-fri/2", "00 02 L * ?", "30 5 * * fri#2", "0 2 ? * L5", "0 2 * * 7"],
)
def test_ordinary_crons_are_taken(cron: str) -> None:
    require_cron(cron)
