"""Pages ask slow questions seldom, once for all browsers, and do not wait for them."""

from __future__ import annotations

import asyncio

import pytest

from fractal_rm.web.pages.numbers.background import Background, Backgrounds
from fractal_rm.web.pages.numbers.kept import Kept


class Question:
    """A question that takes ``takes_s`` on a clock that is set by hand."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.now_s, self.takes_s, self.asked = 0.0, takes_s, 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        await self.may_answer.wait()
        self.now_s += self.takes_s
        if self.error is not None:
            raise self.error
        return self.asked

    def clock(self) -> float:
        return self.now_s


async def test_an_answer_is_kept_for_everybody_who_asks_within_its_time():
    question = Question()
    kept = Kept(question.ask, 2.0, question.clock)
    assert await asyncio.gather(*(kept.get() for _ in range(3))) == [1, 1, 1]
    question.now_s = 1.9
    assert await kept.get() == 1
    question.now_s = 2.0
    assert await kept.get() == 2


async def test_a_question_that_takes_long_is_asked_less_often():
    question = Question(takes_s=0.1)
    kept = Kept(question.ask, 2.0, question.clock)
    await kept.get()
    question.now_s = 5.0
    assert await kept.get() == 1  # for 0.1 s, the pause is 5 s
    question.now_s = 5.2
    assert await kept.get() == 2


async def test_after_an_error_it_is_asked_again():
    question = Question()
    kept = Kept(question.ask, 2.0, question.clock)
    question.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await kept.get()
    question.error = None
    assert await kept.get() == 2


async def test_a_page_does_not_wait_for_a_slow_answer_and_shows_it_later():
    question = Question()
    question.may_answer.clear()
    background = Background(question.ask, 5.0, question.clock)
    assert await background.latest(0) is None
    assert await background.latest(0) is None
    question.may_answer.set()
    assert await background.latest(20) == 1
    assert question.asked == 1


async def test_the_old_answer_is_shown_until_there_is_a_new_one():
    question = Question()
    background = Background(question.ask, 5.0, question.clock)
    assert await background.latest(20) == 1
    question.now_s, _ = 5.0, question.may_answer.clear()
    assert await background.latest(0) == 1
    question.may_answer.set()
    assert await background.latest(20) == 2


async def test_an_error_in_the_background_is_not_swallowed():
    question = Question()
    question.error = ValueError("no")
    background = Background(question.ask, 5.0, question.clock)
    with pytest.raises(ValueError, match="no"):
        await background.latest(20)
    question.error = None
    assert await background.latest(20) == 2


async def test_the_answers_to_the_questions_that_nobody_asks_any_more_are_forgotten():
    asked: list[str] = []

    async def ask(key: str) -> str:
        asked.append(key)
        return key

    backgrounds = Backgrounds(ask, 5.0, lambda: 0.0, most=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert await backgrounds.latest(key, 20) == key
    assert asked == ["a", "b", "c", "b"]
