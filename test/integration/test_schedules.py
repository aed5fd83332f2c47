"""Flows that begin by the clock, under a clock that the tests move."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import msgspec
import pytest

from fractal_rm.adapters.schedule import Schedules
from fractal_rm.domain.errors import Busy
from fractal_rm.domain.flow import CatchUp, Cron, Queueing, Starts
from fractal_rm.domain.state import State
from open_files import no_descriptor_free
from worlds import ManualClock, Stage, config, until

START_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


class Town:
    """A node with schedules; it can be stopped, and killed, and started again."""

    def __init__(self, folder, *, now_ms=START_MS, **starts):
        self.folder = folder
        self.clock = ManualClock(now_ms)
        self.stage = Stage(clock=self.clock)
        self.starts = Starts(**starts)
        self.seen: list[int] = []

    def flows(self):
        flow = msgspec.structs.replace(self.stage.world.config.flows["2"], starts=self.starts)
        return {"2": flow}

    async def begin(self):
        self.schedules = Schedules(
            self, self.folder, self.clock, self.stage.telemetry, flows=self.flows
        )
        await self.schedules.start()
        self.schedules._running.cancel()  # the test looks
        await self.schedules.look()
        return self

    async def receive_all(self, arrivals):
        answers = await self.stage.node.receive_all(arrivals)
        for arrival, answer in zip(arrivals, answers, strict=True):
            if not isinstance(answer, Exception) and not answer.duplicate:
                self.seen.append(int(arrival.key))
        return answers

    async def look(self, forward_ms=0):
        self.clock.ms += forward_ms
        await self.schedules.look()

    async def end(self):
        await self.schedules.stop()

    def new(self):
        seen, self.seen = self.seen, []
        return seen

    @property
    def events(self):
        return self.stage.telemetry.events


@pytest.fixture
def town(tmp_path):
    def make(**starts):
        return Town(tmp_path, **starts)

    return make


async def test_every_begins_one_interval_after_the_start_and_goes_on(town):
    town = town(every_ms=30_000)
    async with town.stage:
        await town.begin()
        await town.look(29_999)
        assert town.new() == []
        await town.look(1)
        await town.look(30_000)
        assert town.new() == [START_MS + 30_000, START_MS + 60_000]


async def test_a_change_that_comes_while_no_descriptor_is_free_for_its_zone_leaves_all_as_it_was(
    town,
):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        town.clock.ms += HOUR_MS // 2
        town.starts = Starts(every_ms=HOUR_MS, cron=Cron("30 * * * *", "Asia/Tokyo"))
        ZoneInfo.clear_cache()
        with no_descriptor_free(), pytest.raises(OSError, match="Too many open files"):
            town.schedules.reconfigured()
        assert "schedule_unreadable" not in town.events
        await town.look(HOUR_MS // 2)
        assert town.new() == [START_MS + HOUR_MS]
        town.schedules.reconfigured()
        await town.look(HOUR_MS // 2)
        assert town.new() == [START_MS + HOUR_MS * 3 // 2]


async def test_the_payload_says_when(town):
    town = town(every_ms=1_500)
    async with town.stage:
        await town.begin()
        await town.look(1_500)
        (kept,) = town.stage.disk.runs.values()
        accepted = kept.facts[0].fact
        assert json.loads(bytes(accepted.payload)) == {"at": "2027-01-15T08:00:01.500Z"}
        assert (accepted.source, accepted.flow) == ("schedule", "2")


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [(CatchUp.NONE, []), (CatchUp.ONE, [4]), (CatchUp.ALL, [1, 2, 3, 4])],
)
@pytest.mark.parametrize("rule", [{"every_ms": HOUR_MS}, {"cron": Cron("0 * * * *")}])
async def test_after_downtime_as_much_is_made_up_for_as_the_flow_says(
    town, rule, catch_up, made_up_for
):
    town = town(catch_up=catch_up, **rule)
    async with town.stage:
        await town.begin()
        await town.end()
        town.clock.ms += 4 * HOUR_MS + MINUTE_MS
        await town.begin()
        assert town.new() == [START_MS + n * HOUR_MS for n in made_up_for]
        assert ("schedule_skipped" in town.events) == (catch_up is not CatchUp.ALL)
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 5 * HOUR_MS]


async def test_a_storm_after_a_long_absence_is_bounded(town):
    town = town(every_ms=1_000, catch_up=CatchUp.ALL)
    async with town.stage:
        await town.begin()
        await town.end()
        town.clock.ms += 365 * DAY_MS
        await town.begin()
        assert town.new() == [town.clock.ms - n * 1_000 for n in range(999, -1, -1)]
        assert "schedule_skipped" in town.events


@pytest.mark.parametrize("jump_ms", [0, -HOUR_MS])
async def test_a_moment_that_was_not_remembered_is_one_run_all_the_same(town, jump_ms):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        await town.end()
        before = town.schedules._path.read_bytes()
        await town.begin()
        await town.look(HOUR_MS)
        await town.end()
        town.schedules._path.write_bytes(before)  # as a crash in the second after leaves it
        town.clock.jumped_ms = jump_ms
        await town.begin()
        assert town.new() == [START_MS + HOUR_MS]
        assert len(town.stage.disk.runs) == 1
        assert "schedule_refused" not in town.events


async def test_what_finds_no_room_comes_when_there_is_some(town):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        told = town.stage.node.receive_all
        refusal = [Busy("full")]

        async def receive_all(arrivals):
            return refusal * len(arrivals) if refusal else await told(arrivals)

        town.stage.node.receive_all = receive_all
        await town.look(HOUR_MS)
        await town.look(1_000)
        assert (town.new(), town.events.count("schedule_held_back")) == ([], 1)
        refusal.clear()
        await town.look(1_000)
        assert town.new() == [START_MS + HOUR_MS]


async def test_while_the_node_drains_nothing_is_lost(town):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        town.stage.node.lifecycle.acceptance.closed = True
        await town.look(HOUR_MS)
        await town.end()
        town.stage.node.lifecycle.acceptance.closed = False
        await town.begin()
        assert town.new() == [START_MS + HOUR_MS]
        assert "schedule_held_back" not in town.events


async def test_a_paused_node_takes_what_is_due_and_runs_it_later(town):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        town.stage.node.pause(True)
        await town.look(HOUR_MS)
        ((run_id, kept),) = town.stage.disk.runs.items()
        assert kept.state is State.ACCEPTED
        town.stage.node.pause(False)
        assert (await town.stage.ended(run_id)).state is State.SUCCEEDED


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 365 * DAY_MS, 500, -500])
async def test_every_does_not_care_about_the_wall_clock(town, jump_ms):
    town = town(every_ms=MINUTE_MS)
    async with town.stage:
        await town.begin()
        await town.look(MINUTE_MS // 2)
        town.clock.jumped_ms = jump_ms
        await town.look()
        await town.look(MINUTE_MS // 2 - 1)
        assert town.new() == []
        await town.look(1)
        assert town.new() == [START_MS + MINUTE_MS]
        (kept,) = town.stage.disk.runs.values()
        said = json.loads(bytes(kept.facts[0].fact.payload))["at"]
        assert at(said.removesuffix("Z")) == START_MS + MINUTE_MS + jump_ms


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 50 * 365 * DAY_MS])
async def test_every_makes_up_for_downtime_and_not_for_a_wall_clock_that_was_set(town, jump_ms):
    town = town(every_ms=MINUTE_MS, catch_up=CatchUp.ALL)
    async with town.stage:
        await town.begin()
        await town.end()
        town.clock.ms += 2 * MINUTE_MS
        town.clock.jumped_ms = jump_ms
        await town.begin()
        assert town.new() == [START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS]


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [(CatchUp.NONE, []), (CatchUp.ONE, [4]), (CatchUp.ALL, [1, 2, 3, 4])],
)
@pytest.mark.parametrize("rule", [{"every_ms": HOUR_MS}, {"cron": Cron("0 * * * *")}])
async def test_a_suspended_machine_was_down(town, rule, catch_up, made_up_for):
    town = town(catch_up=catch_up, **rule)
    async with town.stage:
        await town.begin()
        town.clock.sleep(4 * HOUR_MS + MINUTE_MS)
        await town.look()
        assert town.new() == [START_MS + n * HOUR_MS for n in made_up_for]
        assert "clock_jumped" not in town.events
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 5 * HOUR_MS]


async def test_cron_makes_up_for_a_jump_forward_once_and_without_a_storm(town):
    town = town(cron=Cron("0 * * * *"))
    async with town.stage:
        await town.begin()
        town.clock.jumped_ms = 30 * DAY_MS
        await town.look()
        assert town.new() == [START_MS + 30 * DAY_MS]
        assert {"clock_jumped", "schedule_skipped"} <= set(town.events)


async def test_cron_goes_on_after_a_clock_that_was_wrong_is_put_right(town):
    town = town(cron=Cron("0 * * * *"), now_ms=START_MS + 365 * DAY_MS)
    async with town.stage:
        await town.begin()
        await town.look(HOUR_MS)
        assert len(town.new()) == 1
        town.clock.jumped_ms = -365 * DAY_MS
        await town.look()
        assert "clock_jumped" in town.events
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 2 * HOUR_MS]


async def test_a_machine_that_boots_in_1970_makes_up_from_where_it_was(town):
    town = town(cron=Cron("0 * * * *"), catch_up=CatchUp.ALL)
    async with town.stage:
        await town.begin()
        await town.end()
        town.clock.jumped_ms = -START_MS
        await town.begin()
        town.clock.jumped_ms = 2 * HOUR_MS
        await town.look()
        assert town.new() == [START_MS + HOUR_MS, START_MS + 2 * HOUR_MS]


CRON_0 = Cron("0 * * * *")


@pytest.mark.parametrize("stops", [False, True])
async def test_a_new_board_that_boots_in_1970_has_missed_nothing_when_it_is_set(town, stops):
    town = town(cron=CRON_0, catch_up=CatchUp.ALL, now_ms=30_000)
    async with town.stage:
        await town.begin()
        await town.look(HOUR_MS)
        assert town.new() == [HOUR_MS]
        town.clock.jumped_ms = START_MS
        if stops:
            await town.end()
            await town.begin()
        await town.look()
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 2 * HOUR_MS]


async def test_a_steady_clock_that_boots_have_put_ahead_by_centuries_is_remembered(town):
    town = town(every_ms=HOUR_MS, catch_up=CatchUp.ALL, now_ms=START_MS + 300 * 365 * DAY_MS)
    async with town.stage:
        await town.begin()
        await town.end()
        town.clock.ms += HOUR_MS
        await town.begin()
        assert len(town.new()) == 1


async def test_a_clock_that_is_set_forward_makes_up_for_nothing_where_the_flow_says_so(town):
    town = town(cron=CRON_0, catch_up=CatchUp.NONE)
    async with town.stage:
        await town.begin()
        town.clock.jumped_ms = 30 * DAY_MS + MINUTE_MS
        await town.look()
        assert town.new() == []
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 30 * DAY_MS + HOUR_MS]


async def test_a_clock_that_is_corrected_by_seconds_leaves_no_moment_out(town):
    town = town(cron=CRON_0, catch_up=CatchUp.NONE, now_ms=START_MS - 5_000)
    async with town.stage:
        await town.begin()
        town.clock.jumped_ms = 10_000
        await town.look()
        assert town.new() == [START_MS]


@pytest.mark.parametrize("ahead_ms", [100 * DAY_MS, 40 * 365 * DAY_MS])
async def test_a_clock_that_was_ahead_once_changes_nothing_of_what_is_made_up_for(town, ahead_ms):
    town = town(cron=CRON_0)
    async with town.stage:
        await town.begin()
        town.clock.jumped_ms = ahead_ms
        await town.look()
        town.starts = Starts(cron=CRON_0, catch_up=CatchUp.ALL)
        town.schedules.reconfigured()
        town.clock.jumped_ms = 0
        await town.look(HOUR_MS + MINUTE_MS)
        town.new()
        await town.end()
        town.clock.ms += 2 * HOUR_MS
        await town.begin()
        assert town.new() == [START_MS + 2 * HOUR_MS, START_MS + 3 * HOUR_MS]
        await town.end()
        town.clock.jumped_ms = -town.clock.ms  # it boots in 1970
        await town.begin()
        town.clock.jumped_ms = 0
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 4 * HOUR_MS]


async def test_a_clock_that_goes_back_again_and_again_is_remembered_within_bounds(town, tmp_path):
    town = town(cron=CRON_0)
    async with town.stage:
        await town.begin()
        for days in range(100, 0, -1):
            town.clock.jumped_ms = days * DAY_MS
            await town.look()
        await town.end()
        (times,) = json.loads((tmp_path / "schedules.json").read_text()).values()
        assert len(times) < 12
        await town.begin()
        assert town.events.count("schedules_forgotten") == 0


async def test_cron_follows_daylight_saving(town):
    town = town(cron=Cron("30 2 * * *", "Europe/Rome"), now_ms=at("2027-03-27T00:00:00"))
    async with town.stage:
        await town.begin()
        for _ in range(3 * 24 * 2):
            await town.look(HOUR_MS // 2)
        assert town.new() == [
            at("2027-03-27T02:30", "Europe/Rome"),
            at("2027-03-28T03:00", "Europe/Rome"),  # there is no half past two in that night
            at("2027-03-29T02:30", "Europe/Rome"),
        ]


async def test_a_flow_that_is_slower_than_its_schedule_keeps_one_run_waiting_as_the_page_says(town):
    town = town(every_ms=30_000)
    rules = Queueing(limit=1, latest="'all'")
    town.flows = lambda: {"4": msgspec.structs.replace(
        config().flows["4"], starts=town.starts, queueing=rules)}  # fmt: skip
    town.stage = Stage(clock=town.clock, flows=town.flows())
    go = town.stage.holds("slow/1")
    async with town.stage:
        await town.begin()
        for _ in range(5):
            await town.look(30_000)
        await until(lambda: len(town.stage.called()) == 1)
        states = [run.state for run in town.stage.disk.runs.values()]
        assert states[0] is State.ACCEPTED or states[0] is State.RUNNING
        assert states[1:] == [State.SUPERSEDED] * 3 + [State.ACCEPTED]
        go.set()


async def test_what_comes_twice_in_autumn_begins_once(town):
    town = town(cron=Cron("30 2 * * *", "Europe/Rome"), now_ms=at("2027-10-30T12:00:00"))
    async with town.stage:
        await town.begin()
        for _ in range(2 * 24 * 2):
            await town.look(HOUR_MS // 2)
        days = [datetime.fromtimestamp(ms / 1000, timezone.utc).day for ms in town.new()]
        assert days == [31, 1]


async def test_a_rule_that_stays_is_not_disturbed_by_a_reload(town):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        await town.look(HOUR_MS // 2)
        town.starts = Starts(every_ms=HOUR_MS, catch_up=CatchUp.ALL)
        town.schedules.reconfigured()
        await town.look(HOUR_MS // 2)
        assert town.new() == [START_MS + HOUR_MS]
        town.starts = Starts(every_ms=2 * HOUR_MS)
        town.schedules.reconfigured()
        await town.look(HOUR_MS)
        assert town.new() == []
        await town.look(HOUR_MS)
        assert town.new() == [START_MS + 3 * HOUR_MS]


async def test_a_flow_that_is_gone_is_said_and_not_asked_for_again(town):
    town = town(every_ms=HOUR_MS)
    async with town.stage:
        await town.begin()
        config_ = town.stage.world.config
        town.stage.world.config = msgspec.structs.replace(config_, flows={})
        town.flows = lambda: config_.flows
        await town.look(HOUR_MS)
        await town.look(1_000)
        assert town.events.count("schedule_refused") == 1


async def test_what_cannot_be_read_is_said_and_stops_nothing_else(town):
    town = town(every_ms=HOUR_MS, cron=Cron("61 * * * *"))
    async with town.stage:
        await town.begin()
        assert "schedule_unreadable" in town.events
        town.schedules._path.write_text("{")
        await town.begin()
        assert "schedules_forgotten" in town.events


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("moment_ms", [253_402_300_799_999, 2**47 + 1, 2**63])
async def test_a_moment_that_no_clock_shows_is_not_gone_on_from(town, zone, moment_ms):
    rule = Cron("* * * * *", zone)
    town = town(cron=rule)
    async with town.stage:
        name = f"2 CRON {rule.expression} {zone}"
        (town.folder / "schedules.json").write_text(json.dumps({name: moment_ms}))
        await town.begin()
        assert "schedules_forgotten" in town.events
        await town.look(MINUTE_MS)
        assert town.new() == [START_MS + MINUTE_MS]


async def test_by_itself_it_fires_and_remembers(tmp_path):
    from fractal_rm.adapters.clock import SystemClock

    town = Town(tmp_path, every_ms=20)
    async with town.stage:
        schedules = Schedules(town, tmp_path, SystemClock(), town.stage.telemetry, flows=town.flows)
        await schedules.start()
        assert schedules.status().ok
        await until(lambda: len(town.seen) >= 3)
        await schedules.stop()
        await schedules.stop()
        assert town.seen == sorted(set(town.seen))
        assert max(town.seen) in json.loads((tmp_path / "schedules.json").read_text()).values()
