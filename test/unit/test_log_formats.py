"""The log: its two forms, the ids in its lines, and its level, which changes without a restart."""

from __future__ import annotations

import json
import logging

import pytest

from engine_stage import Stage
from fractal_rm.adapters.telemetry.formats import HumanFormat, JsonFormat
from fractal_rm.adapters.telemetry.level import LogLevel
from fractal_rm.adapters.telemetry.log import LogTelemetry
from fractal_rm.domain.log_level import UnknownLogLevel

HOSTILE = 'a\x1b[31m\n"\u202e\ud800 =' + "x" * 1_000


class Lines(logging.Handler):
    """Keeps the formatted lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log(request):
    """Installs a handler with a format on the log of the program. Gives the handler."""
    logger, handler = logging.getLogger("fractal_rm"), Lines(request.param)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


human = pytest.mark.parametrize("log", [HumanFormat()], indirect=True)
as_json = pytest.mark.parametrize("log", [JsonFormat()], indirect=True)


@as_json
def test_a_json_line_has_time_level_event_and_the_fields_with_their_types(log):
    LogTelemetry(lambda: 0.0).problem("run_failed", run="01M", took_ms=12, ok=True, x=float("nan"))
    [line] = map(json.loads, log.lines)
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {"level": "warning", "event": "run_failed", "run": "01M", "took_ms": 12,
                    "ok": True, "x": "nan"}  # fmt: skip


@as_json
def test_hostile_text_is_escaped_and_shortened_in_json(log):
    LogTelemetry(lambda: 0.0).event("something", text=HOSTILE, time="not the time")
    [text] = log.lines
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 1_000
    assert json.loads(text)["text"].startswith(HOSTILE[:20])
    assert json.loads(text)["time"] != "not the time"


@human
def test_hostile_text_is_escaped_and_shortened_for_people(log):
    LogTelemetry(lambda: 0.0).event("something", text=HOSTILE)
    [text] = log.lines
    assert text.isprintable()
    assert "\x1b" not in text
    assert len(text) < 1_000


@as_json
def test_an_event_of_a_run_has_the_id_of_its_trace(log):
    telemetry = LogTelemetry(lambda: 0.0, {"01M": "4bf9"}.get)
    telemetry.event("one", run="01M")
    telemetry.event("two", run="other")
    first, second = map(json.loads, log.lines)
    assert first["trace"] == "4bf9"
    assert "trace" not in second


@as_json
def test_a_traceback_is_part_of_the_json_line(log):
    LogTelemetry(lambda: 0.0).problem("failed", exc_info=ValueError("wrong"))
    [text] = log.lines
    assert "ValueError: wrong" in json.loads(text)["traceback"]


@human
async def test_at_level_debug_each_fact_is_logged_without_its_data_until_the_level_is_set_back(log):
    async with Stage(balancer=None) as stage:
        observers = stage.dependencies.observers
        level = LogLevel(LogTelemetry(lambda: 0.0), observers, lambda: "info")
        level.apply_configured()
        level.toggle()
        assert level.current == "debug"
        await stage.run("2", payload="secret")
        level.toggle()
        await stage.run("2", payload="secret")
    facts = [line.partition("fact=")[2].split()[0] for line in log.lines if " run_fact " in line]
    assert facts == ["accepted", "placed", "finished", "settled"]
    assert not any("secret" in line for line in log.lines)
    changes = [line for line in log.lines if "log_level_changed" in line]
    assert [line.split()[-2:] for line in changes] == [
        ["level=debug", "before=info"], ["level=info", "before=debug"]
    ]  # fmt: skip


@human
async def test_an_unknown_level_is_refused_and_a_new_configuration_sets_its_level(log):
    async with Stage() as stage:
        configured = ["info"]
        observers = stage.dependencies.observers
        level = LogLevel(LogTelemetry(lambda: 0.0), observers, lambda: configured[0])
        level.apply_configured()
        with pytest.raises(UnknownLogLevel):
            level.set("loud")
        level.set("warning")
        level.apply_configured()  # comm.conf has not changed
        assert level.current == "warning"
        configured[0] = "debug"
        level.apply_configured()
        assert level.current == "debug"
