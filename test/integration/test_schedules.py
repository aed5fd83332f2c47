"""Flows with schedules, on a clock that the tests move."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import partial
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine_stage import ManualClock, Stage, config, until
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.schedule import Schedules
from fractal_rm.domain.flow import CatchUp, Cron, QueueSettings, StartSettings
from fractal_rm.domain.refusals import Busy
from fractal_rm.domain.state import State
from open_files import no_descriptor_free

START_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def time_ms(text: str, zone: str = "UTC") -> int:
    """The milliseconds since 1970 of a time in a time zone."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


class ScheduleStage:
    """A node with schedules, which fires only when the test calls `advance`.

    If ``refusal`` is set, all triggers get this refusal. ``fired``: the moments that have become
    runs.
    """

    def __init__(self, folder, *, now_ms=START_MS, **starts):
        self.folder = folder
        self.clock = ManualClock(now_ms)
        self.stage = Stage(clock=self.clock)
        self.starts = StartSettings(**starts)
        self.refusal = None
        self.fired: list[int] = []

    def flows(self):
        flow = msgspec.structs.replace(
            self.stage.dependencies.config.flows["2"], starts=self.starts
        )
        return {"2": flow}

    async def begin(self):
        """Start a process: read the progress, and fire the due moments."""
        self.way_in = Schedules(
            self, self.folder, self.clock, self.stage.telemetry, flows=self.flows
        )
        await self.way_in.load()
        await self.way_in.fire_due()

    async def receive_all(self, arrivals):
        if self.refusal is not None:
            return [self.refusal] * len(arrivals)
        answers = await self.stage.node.receive_all(arrivals)
        for arrival, answer in zip(arrivals, answers, strict=True):
            if not isinstance(answer, Exception) and not answer.duplicate:
                self.fired.append(int(arrival.key))
        return answers

    async def advance(self, by_ms=0):
        """Move the clock, and fire the due moments."""
        self.clock.ms += by_ms
        await self.way_in.fire_due()

    async def end(self):
        """End the process: save the progress."""
        await self.way_in.save()

    def newly_fired(self):
        """The moments fired since the last call."""
        fired, self.fired = self.fired, []
        return fired

    @property
    def events(self):
        return self.stage.telemetry.events


@pytest.fixture
def make(tmp_path):
    """Return a function that makes stages with the same state folder."""
    return partial(ScheduleStage, tmp_path)


async def test_an_every_rule_first_fires_one_interval_after_the_start(make):
    schedules = make(every_ms=30_000)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(29_999)
        assert schedules.newly_fired() == []
        await schedules.advance(1)
        await schedules.advance(30_000)
        assert schedules.newly_fired() == [START_MS + 30_000, START_MS + 60_000]


async def test_a_reload_changes_nothing_if_no_descriptor_is_free_to_read_the_time_zone(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.ms += HOUR_MS // 2
        schedules.starts = StartSettings(every_ms=HOUR_MS, cron=Cron("30 * * * *", "Asia/Tokyo"))
        ZoneInfo.clear_cache()
        with no_descriptor_free(), pytest.raises(OSError, match="Too many open files"):
            schedules.way_in.reconfigured()
        assert "schedule_unreadable" not in schedules.events
        await schedules.advance(HOUR_MS // 2)
        assert schedules.newly_fired() == [START_MS + HOUR_MS]
        schedules.way_in.reconfigured()
        await schedules.advance(HOUR_MS // 2)
        assert schedules.newly_fired() == [START_MS + HOUR_MS * 3 // 2]


async def test_the_payload_contains_the_moment_of_the_schedule(make):
    schedules = make(every_ms=1_500)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(1_500)
        (run,) = schedules.stage.disk.runs.values()
        accepted = run.facts[0].fact
        assert json.loads(bytes(accepted.payload)) == {"at": "2027-01-15T08:00:01.500Z"}
        assert (accepted.source, accepted.flow) == ("schedule", "2")


@pytest.mark.parametrize(
    ("catch_up", "hours"),
    [(CatchUp.NONE, []), (CatchUp.ONE, [4]), (CatchUp.ALL, [1, 2, 3, 4])],
)
@pytest.mark.parametrize("rule", [{"every_ms": HOUR_MS}, {"cron": Cron("0 * * * *")}])
async def test_after_downtime_the_flow_catches_up_as_configured(make, rule, catch_up, hours):
    schedules = make(catch_up=catch_up, **rule)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        schedules.clock.ms += 4 * HOUR_MS + MINUTE_MS
        await schedules.begin()
        assert schedules.newly_fired() == [START_MS + n * HOUR_MS for n in hours]
        assert ("schedule_skipped" in schedules.events) == (catch_up is not CatchUp.ALL)
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 5 * HOUR_MS]


async def test_after_a_long_downtime_the_number_of_fired_moments_is_limited(make):
    schedules = make(every_ms=1_000, catch_up=CatchUp.ALL)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        schedules.clock.ms += 365 * DAY_MS
        await schedules.begin()
        assert schedules.newly_fired() == [
            schedules.clock.ms - n * 1_000 for n in range(999, -1, -1)
        ]
        assert "schedule_skipped" in schedules.events


@pytest.mark.parametrize("jump_ms", [0, -HOUR_MS])
async def test_a_moment_fired_again_after_a_crash_is_one_run(make, jump_ms):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        file = schedules.folder / "schedules.json"
        saved = file.read_bytes()
        await schedules.begin()
        await schedules.advance(HOUR_MS)
        await schedules.end()
        file.write_bytes(saved)  # as if a crash had prevented the save
        schedules.clock.jumped_ms = jump_ms
        await schedules.begin()
        assert schedules.newly_fired() == [START_MS + HOUR_MS]
        assert len(schedules.stage.disk.runs) == 1
        assert "schedule_refused" not in schedules.events


async def test_a_moment_that_a_full_node_refused_is_fired_when_the_node_has_room(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        schedules.refusal = Busy("full")
        await schedules.advance(HOUR_MS)
        await schedules.advance(1_000)
        assert (schedules.newly_fired(), schedules.events.count("schedule_delayed")) == ([], 1)
        schedules.refusal = None
        await schedules.advance(1_000)
        assert schedules.newly_fired() == [START_MS + HOUR_MS]


async def test_a_moment_during_a_drain_is_fired_after_the_next_start(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        schedules.stage.node.lifecycle.condition.stopping = True
        await schedules.advance(HOUR_MS)
        await schedules.end()
        schedules.stage.node.lifecycle.condition.stopping = False
        await schedules.begin()
        assert schedules.newly_fired() == [START_MS + HOUR_MS]
        assert "schedule_delayed" not in schedules.events


async def test_a_paused_node_accepts_due_moments_and_runs_them_later(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        schedules.stage.node.pause(True)
        await schedules.advance(HOUR_MS)
        ((run_id, run),) = schedules.stage.disk.runs.items()
        assert run.state is State.ACCEPTED
        schedules.stage.node.pause(False)
        assert (await schedules.stage.wait_for_outcome(run_id)).state is State.SUCCEEDED


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 365 * DAY_MS, 500, -500])
async def test_an_every_rule_does_not_depend_on_the_wall_clock(make, jump_ms):
    schedules = make(every_ms=MINUTE_MS)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(MINUTE_MS // 2)
        schedules.clock.jumped_ms = jump_ms
        await schedules.advance()
        await schedules.advance(MINUTE_MS // 2 - 1)
        assert schedules.newly_fired() == []
        await schedules.advance(1)
        assert schedules.newly_fired() == [START_MS + MINUTE_MS]
        (run,) = schedules.stage.disk.runs.values()
        wall_time = json.loads(bytes(run.facts[0].fact.payload))["at"]
        assert time_ms(wall_time.removesuffix("Z")) == START_MS + MINUTE_MS + jump_ms


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 50 * 365 * DAY_MS])
async def test_an_every_rule_catches_up_on_downtime_but_not_on_a_jump_of_the_wall_clock(
    make, jump_ms
):
    schedules = make(every_ms=MINUTE_MS, catch_up=CatchUp.ALL)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        schedules.clock.ms += 2 * MINUTE_MS
        schedules.clock.jumped_ms = jump_ms
        await schedules.begin()
        assert schedules.newly_fired() == [START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS]


@pytest.mark.parametrize(
    ("catch_up", "hours"),
    [(CatchUp.NONE, []), (CatchUp.ONE, [4]), (CatchUp.ALL, [1, 2, 3, 4])],
)
@pytest.mark.parametrize("rule", [{"every_ms": HOUR_MS}, {"cron": Cron("0 * * * *")}])
async def test_a_suspend_counts_as_downtime(make, rule, catch_up, hours):
    schedules = make(catch_up=catch_up, **rule)
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.sleep(4 * HOUR_MS + MINUTE_MS)
        await schedules.advance()
        assert schedules.newly_fired() == [START_MS + n * HOUR_MS for n in hours]
        assert "clock_jumped" not in schedules.events
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 5 * HOUR_MS]


async def test_cron_fires_once_after_the_wall_clock_jumps_forward(make):
    schedules = make(cron=Cron("0 * * * *"))
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.jumped_ms = 30 * DAY_MS
        await schedules.advance()
        assert schedules.newly_fired() == [START_MS + 30 * DAY_MS]
        assert {"clock_jumped", "schedule_skipped"} <= set(schedules.events)


async def test_cron_continues_after_a_wall_clock_that_was_ahead_is_corrected(make):
    schedules = make(cron=Cron("0 * * * *"), now_ms=START_MS + 365 * DAY_MS)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(HOUR_MS)
        assert len(schedules.newly_fired()) == 1
        schedules.clock.jumped_ms = -365 * DAY_MS
        await schedules.advance()
        assert "clock_jumped" in schedules.events
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 2 * HOUR_MS]


async def test_after_a_boot_in_1970_cron_catches_up_from_its_progress(make):
    schedules = make(cron=Cron("0 * * * *"), catch_up=CatchUp.ALL)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        schedules.clock.jumped_ms = -START_MS
        await schedules.begin()
        schedules.clock.jumped_ms = 2 * HOUR_MS
        await schedules.advance()
        assert schedules.newly_fired() == [START_MS + HOUR_MS, START_MS + 2 * HOUR_MS]


HOURLY = Cron("0 * * * *")


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_new_board_that_boots_in_1970_has_nothing_to_catch_up_on(make, restarts):
    schedules = make(cron=HOURLY, catch_up=CatchUp.ALL, now_ms=30_000)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [HOUR_MS]
        schedules.clock.jumped_ms = START_MS
        if restarts:
            await schedules.end()
            await schedules.begin()
        await schedules.advance()
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 2 * HOUR_MS]


async def test_the_saved_progress_is_used_even_if_the_steady_clock_is_centuries_ahead(make):
    schedules = make(every_ms=HOUR_MS, catch_up=CatchUp.ALL, now_ms=START_MS + 300 * 365 * DAY_MS)
    async with schedules.stage:
        await schedules.begin()
        await schedules.end()
        schedules.clock.ms += HOUR_MS
        await schedules.begin()
        assert len(schedules.newly_fired()) == 1


async def test_after_the_wall_clock_jumps_forward_a_flow_without_catch_up_does_not_fire(make):
    schedules = make(cron=HOURLY, catch_up=CatchUp.NONE)
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.jumped_ms = 30 * DAY_MS + MINUTE_MS
        await schedules.advance()
        assert schedules.newly_fired() == []
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 30 * DAY_MS + HOUR_MS]


async def test_a_correction_of_the_wall_clock_by_seconds_skips_no_moment(make):
    schedules = make(cron=HOURLY, catch_up=CatchUp.NONE, now_ms=START_MS - 5_000)
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.jumped_ms = 10_000
        await schedules.advance()
        assert schedules.newly_fired() == [START_MS]


@pytest.mark.parametrize("ahead_ms", [100 * DAY_MS, 40 * 365 * DAY_MS])
async def test_a_wall_clock_that_was_ahead_once_does_not_change_which_moments_are_caught_up_on(
    make, ahead_ms
):
    schedules = make(cron=HOURLY)
    async with schedules.stage:
        await schedules.begin()
        schedules.clock.jumped_ms = ahead_ms
        await schedules.advance()
        schedules.starts = StartSettings(cron=HOURLY, catch_up=CatchUp.ALL)
        schedules.way_in.reconfigured()
        schedules.clock.jumped_ms = 0
        await schedules.advance(HOUR_MS + MINUTE_MS)
        schedules.newly_fired()
        await schedules.end()
        schedules.clock.ms += 2 * HOUR_MS
        await schedules.begin()
        assert schedules.newly_fired() == [START_MS + 2 * HOUR_MS, START_MS + 3 * HOUR_MS]
        await schedules.end()
        schedules.clock.jumped_ms = -schedules.clock.ms  # the node boots in 1970
        await schedules.begin()
        schedules.clock.jumped_ms = 0
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 4 * HOUR_MS]


async def test_the_number_of_saved_times_is_limited(make, tmp_path):
    schedules = make(cron=HOURLY)
    async with schedules.stage:
        await schedules.begin()
        for days in range(100, 0, -1):
            schedules.clock.jumped_ms = days * DAY_MS
            await schedules.advance()
        await schedules.end()
        (times,) = json.loads((tmp_path / "schedules.json").read_text()).values()
        assert len(times) < 12
        await schedules.begin()
        assert schedules.events.count("schedules_unreadable") == 0


async def test_cron_follows_daylight_saving(make):
    schedules = make(cron=Cron("30 2 * * *", "Europe/Rome"), now_ms=time_ms("2027-03-27T00:00:00"))
    async with schedules.stage:
        await schedules.begin()
        for _ in range(3 * 24 * 2):
            await schedules.advance(HOUR_MS // 2)
        assert schedules.newly_fired() == [
            time_ms("2027-03-27T02:30", "Europe/Rome"),
            time_ms("2027-03-28T03:00", "Europe/Rome"),  # 02:30 does not exist in that night
            time_ms("2027-03-29T02:30", "Europe/Rome"),
        ]


async def test_a_flow_that_is_slower_than_its_schedule_has_at_most_one_waiting_run(make):
    schedules = make(every_ms=30_000)
    queueing = QueueSettings(limit=1, latest="'all'")
    schedules.flows = lambda: {"4": msgspec.structs.replace(
        config().flows["4"], starts=schedules.starts, queueing=queueing)}  # fmt: skip
    schedules.stage = Stage(clock=schedules.clock, flows=schedules.flows())
    release = schedules.stage.block_calls("slow/1")
    async with schedules.stage:
        await schedules.begin()
        for _ in range(5):
            await schedules.advance(30_000)
        await until(lambda: len(schedules.stage.called_endpoints()) == 1)
        states = [run.state for run in schedules.stage.disk.runs.values()]
        assert states[0] in (State.ACCEPTED, State.RUNNING)
        assert states[1:] == [State.SUPERSEDED] * 3 + [State.ACCEPTED]
        release.set()


async def test_a_wall_time_that_occurs_twice_in_autumn_fires_once(make):
    schedules = make(cron=Cron("30 2 * * *", "Europe/Rome"), now_ms=time_ms("2027-10-30T12:00:00"))
    async with schedules.stage:
        await schedules.begin()
        for _ in range(2 * 24 * 2):
            await schedules.advance(HOUR_MS // 2)
        days = [
            datetime.fromtimestamp(ms / 1000, timezone.utc).day for ms in schedules.newly_fired()
        ]
        assert days == [31, 1]


async def test_a_reload_keeps_the_progress_of_an_unchanged_rule(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        await schedules.advance(HOUR_MS // 2)
        schedules.starts = StartSettings(every_ms=HOUR_MS, catch_up=CatchUp.ALL)
        schedules.way_in.reconfigured()
        await schedules.advance(HOUR_MS // 2)
        assert schedules.newly_fired() == [START_MS + HOUR_MS]
        schedules.starts = StartSettings(every_ms=2 * HOUR_MS)
        schedules.way_in.reconfigured()
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == []
        await schedules.advance(HOUR_MS)
        assert schedules.newly_fired() == [START_MS + 3 * HOUR_MS]


async def test_a_moment_of_a_flow_that_does_not_exist_is_reported_once(make):
    schedules = make(every_ms=HOUR_MS)
    async with schedules.stage:
        await schedules.begin()
        config_ = schedules.stage.dependencies.config
        schedules.stage.dependencies.config = msgspec.structs.replace(config_, flows={})
        schedules.flows = lambda: config_.flows
        await schedules.advance(HOUR_MS)
        await schedules.advance(1_000)
        assert schedules.events.count("schedule_refused") == 1


async def test_an_unreadable_rule_and_an_unreadable_file_are_reported(make):
    schedules = make(every_ms=HOUR_MS, cron=Cron("61 * * * *"))
    async with schedules.stage:
        await schedules.begin()
        assert "schedule_unreadable" in schedules.events
        (schedules.folder / "schedules.json").write_text("{")
        await schedules.begin()
        assert "schedules_unreadable" in schedules.events


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("moment_ms", [253_402_300_799_999, 2**47 + 1, 2**63])
async def test_an_impossible_moment_in_the_file_is_ignored(make, zone, moment_ms):
    rule = Cron("* * * * *", zone)
    schedules = make(cron=rule)
    async with schedules.stage:
        name = f"2 CRON {rule.expression} {zone}"
        (schedules.folder / "schedules.json").write_text(json.dumps({name: moment_ms}))
        await schedules.begin()
        assert "schedules_unreadable" in schedules.events
        await schedules.advance(MINUTE_MS)
        assert schedules.newly_fired() == [START_MS + MINUTE_MS]


async def test_schedules_fire_and_save_their_progress_until_they_are_stopped(tmp_path):
    schedules = ScheduleStage(tmp_path, every_ms=20)
    async with schedules.stage:
        way_in = Schedules(
            schedules, tmp_path, SystemClock(), schedules.stage.telemetry, flows=schedules.flows
        )
        await way_in.start()
        assert way_in.status().ok
        await until(lambda: len(schedules.fired) >= 3)
        await way_in.stop()
        await way_in.stop()
        assert schedules.fired == sorted(set(schedules.fired))
        assert (
            max(schedules.fired) in json.loads((tmp_path / "schedules.json").read_text()).values()
        )
