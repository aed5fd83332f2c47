"""The options that choose runs."""

from __future__ import annotations

import time
from datetime import datetime

import click
import pytest
from click.testing import CliRunner

from fractal_rm.cli.filter_options import filter_options, time_ms
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State

NOW_MS = 1_795_960_920_000  # 2026-11-29T14:02Z


@click.command()
@click.argument("word")
@filter_options
def show(word: str, run_filter: RunFilter) -> None:
    click.echo(f"{word} {run_filter}")


def shown(*words: str) -> str:
    result = CliRunner().invoke(show, ["w", *words])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def local_ms(*parts: int) -> int:
    return round(datetime(*parts).astimezone().timestamp() * 1000)


@pytest.fixture(autouse=True, params=["UTC", "America/St_Johns"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", lambda now: now - 30_000),
        ("6h", lambda now: now - 6 * 3_600_000),
        ("2d", lambda now: now - 2 * 86_400_000),
        ("14:02", lambda _: local_ms(2026, 11, 29, 14, 2)),
        ("14:30:16", lambda _: local_ms(2026, 11, 28, 14, 30, 16)),
        ("2026-11-29", lambda _: local_ms(2026, 11, 29)),
        ("2026-11-29T14:02", lambda _: local_ms(2026, 11, 29, 14, 2)),
        ("2026-11-29 14:02:11.348", lambda _: local_ms(2026, 11, 29, 14, 2, 11) + 348),
        ("2026-11-29T14:02Z", lambda _: 1_795_960_920_000),
        ("2026-11-29T15:02+01:00", lambda _: 1_795_960_920_000),
    ],
)
def test_a_time_may_be_written_in_many_ways(text, expected):
    now_ms = local_ms(2026, 11, 29, 14, 30, 15)
    assert time_ms(text, now_ms) == expected(now_ms)


@pytest.mark.parametrize(
    "text",
    ["", "Z", "yesterday", "6", "h", "-6h", "25:00", "14:60", "9999999h", "0000-01-01", "١h"],
)
def test_other_texts_are_not_times(text):
    assert time_ms(text, NOW_MS) is None


def test_without_options_the_filter_is_empty():
    assert shown() == f"w {RunFilter()}"


def test_each_option_is_a_condition_of_the_filter():
    words = "--flow 1 --state failed --state dead --component c --cause timeout --node here"
    words += (
        " --slower 2s --source mqtt --since 2026-11-29T14:02Z --until 2026-11-29T14:03Z --text busy"
    )
    assert shown(*words.split(), "--not-handled") == "w " + str(
        RunFilter(
            flow="1", states=(State.FAILED, State.DEAD), component="c", cause="timeout",
            node="here", source="mqtt", since_ms=1_795_960_920_000, until_ms=1_795_960_980_000,
            text="busy", handled=False, slower_ms=2_000,
        )
    )  # fmt: skip
    assert "handled=True" in shown("--handled")


def test_a_time_that_cannot_be_read_is_refused_with_examples():
    result = CliRunner().invoke(show, ["w", "--since", "soon"])
    assert result.exit_code == 2
    assert "'soon' is not a time: give a length of time such as 30m" in result.output


def test_a_length_of_time_that_cannot_be_read_is_refused_with_examples():
    result = CliRunner().invoke(show, ["w", "--slower", "2"])
    assert result.exit_code == 2
    assert "'2' is not a length of time: give a time from 1ms to 24h" in result.output
