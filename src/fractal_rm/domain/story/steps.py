"""The steps of a run by name, such as ``step 2 (POST component7 1)``."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from fractal_rm.domain.expression import Base64, Item, Payload, Piece, Result
from fractal_rm.domain.flow import Call, Content, Flow, Publish, Retry, Step, SubFlow, Undo, Wait
from fractal_rm.domain.story.values import ComponentNote, RunToTell
from fractal_rm.domain.story.words import count, cut, duration, listed

MAX_ITEMS = 200  # characters of the items of a step


class Steps:
    """Finds and names the steps of a run. Without the flow, a step has only its number."""

    def __init__(self, told: RunToTell) -> None:
        self._flow: Flow | None = told.flow
        self._components = told.here.components

    @property
    def total(self) -> int | None:
        """The number of steps with a number; None if the flow is not known."""
        if self._flow is None:
            return None
        return sum(isinstance(step, (Call, SubFlow)) for step in self._flow.steps)

    def numbered(self, number: int) -> Call | SubFlow | None:
        """The step with this number, or None if it is not known."""
        for step in self._flow.steps if self._flow else ():
            if isinstance(step, (Call, SubFlow)) and step.number == number:
                return step
        return None

    def at(self, position: int) -> Step | None:
        """The step at this position of the flow, or None if it is not known."""
        steps = self._flow.steps if self._flow else ()
        return steps[position] if 0 <= position < len(steps) else None

    def name(self, number: int, part: str | UnsetType = UNSET) -> str:
        """A step for the middle of a sentence: ``step 2 (POST component7 1)``."""
        if part is not UNSET and part.startswith("@"):
            return self.name_at(int(part[1:]) if part[1:].isdigit() else -1)
        if part is not UNSET and part.startswith("undo."):
            request = self.undo_request(number)
            return f"the UNDO of step {number}" + (f" ({request})" if request else "")
        element = part.rpartition(".")[2] if part is not UNSET else ""
        label = f"element {element} of step {number}" if element else f"step {number}"
        target = target_of(self.numbered(number))
        return f"{label} ({target})" if target else label

    def undo_request(self, number: int) -> str:
        """The request that undoes a step: ``POST component7 back``; empty if it is not known."""
        step = self.numbered(number)
        undo = undo_of(step)
        return f"POST {step.component} {undo.endpoint}" if undo and isinstance(step, Call) else ""

    def name_at(self, position: int) -> str:
        """A step without a number: ``PUBLISH plant/alarm``."""
        match self.at(position):
            case Publish(topic=topic):
                return f"PUBLISH {topic}"
            case Wait(ms=ms):
                return f"WAIT {duration(ms)}"
            case None:
                return f"the step at line {position + 1} of the flow"
            case step:
                return type(step).__name__.upper()

    def component(self, number: int) -> str | None:
        """The name of the component that a step calls, or None."""
        step = self.numbered(number)
        return step.component if isinstance(step, Call) else None

    def note(self, number: int) -> ComponentNote | None:
        """What the configuration says about the component of a step, or None."""
        name = self.component(number)
        return (self._components or {}).get(name) if name is not None else None

    def url(self, number: int, part: str | UnsetType = UNSET) -> str:
        """The address that a step calls, as it is configured now; empty if it is not known."""
        step, note = self.numbered(number), self.note(number)
        if not isinstance(step, Call) or note is None:
            return ""
        undo = undo_of(step) if part is not UNSET and part.startswith("undo.") else None
        return note.urls.get(undo.endpoint if undo else step.endpoint, "")

    def retry(self, number: int) -> Retry | None:
        """The RETRY of a step, or None."""
        step = self.numbered(number)
        if not isinstance(step, Call) or step.options is UNSET:
            return None
        return step.options.retry

    def line(self, number: int) -> int | None:
        """The line of a step in flows.conf, when the run began; None if it is not known."""
        step = self.numbered(number)
        return step.line or None if step is not None else None

    def sends(self, number: int) -> str:
        """What a step sends, such as ``payload and result1``; empty if it sends nothing."""
        step = self.numbered(number)
        if isinstance(step, SubFlow):
            return _content(step.content)
        if not isinstance(step, Call):
            return ""
        options = None if step.options is UNSET else step.options
        if options is not None and options.json is not None:
            return "a JSON body"
        if options is not None and options.raw is not None:
            return f"RAW {_item(options.raw)}"
        return _items(step.items)


def undo_of(step: Step | None) -> Undo | None:
    """The UNDO of a step, or None."""
    if not isinstance(step, Call) or step.options is UNSET:
        return None
    return step.options.undo


def target_of(step: Step | None) -> str:
    """What a step calls or starts: ``POST component7 1``, ``RUN 5``; empty if it is not known."""
    match step:
        case Call():
            return f"{step.method.value} {step.component} {step.endpoint}"
        case SubFlow():
            return f"RUN {step.flow}"
        case _:
            return ""


def _content(content: Content) -> str:
    if content.json is not None:
        return "a JSON body"
    return f"RAW {_item(content.raw)}" if content.raw is not None else _items(content.items)


def _items(items: tuple[Piece, ...]) -> str:
    if len(items) > 5:
        return count(len(items), "value")
    return cut(listed([_item(item) for item in items]), MAX_ITEMS)


def _item(item: Piece) -> str:
    match item:
        case Base64(of=of):
            return f"base64({_item(of)})"
        case Payload(path=path):
            return f"payload{_path(path)}"
        case Result(number=number, path=path):
            return f"result{number}{_path(path)}"
        case Item(path=path):
            return f"item{_path(path)}"


def _path(path: str) -> str:
    return path if path.startswith("[") or not path else f".{path}"
