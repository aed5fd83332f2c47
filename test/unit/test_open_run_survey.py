"""What a node says about its open runs, if there are many of them."""

from __future__ import annotations

from fractal_rm.domain.flow import Call, Flow, Method
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine import runs_now
from fractal_rm.engine.runs_now import OpenRunSurvey

FLOW = Flow("1", steps=(Call(1, "press", "close", Method.GET),))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(number: int) -> Run:
    return Run(f"{number:05}", FLOW, 0, state=State.ACCEPTED)


async def counts(survey: OpenRunSurvey) -> dict[str, int]:
    found = await survey.now({"1": FLOW})
    return {state.text: count for state, count in found.by_state.items()}


async def test_few_runs_are_counted_each_time_and_many_at_most_once_a_second(monkeypatch):
    monkeypatch.setattr(runs_now, "RUNS_PER_TURN", 3)
    runs, clock = [run(1), run(2)], Clock()
    survey = OpenRunSurvey(runs, clock)

    assert await counts(survey) == {"accepted": 2}
    runs += [run(3), run(4)]
    assert await counts(survey) == {"accepted": 4}
    runs.append(run(5))
    assert await counts(survey) == {"accepted": 4}
    clock.now_s = 1.0
    assert await counts(survey) == {"accepted": 5}
