"""What a run of a flow does to the world, for the question whether to start it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fractal_rm.config.model import Config
from fractal_rm.domain.flow import Flow, Publish, SubFlow, components_called_by


class CalledComponent(msgspec.Struct, frozen=True):
    """A component that a run calls, and the servers where it is.

    ``idempotent``: whether the same call may be made twice.
    """

    name: str
    origins: tuple[str, ...]
    idempotent: bool


class Effects(msgspec.Struct, frozen=True):
    """What a run of a flow does.

    ``calls`` also has the components that are called by flows which this flow runs. ``others`` are
    its steps of these kinds, in order: the id of a flow that it runs, or the topic of a message.
    ``asks_balancer``: the balancer is asked, so the run may be executed on another node.
    """

    calls: tuple[CalledComponent, ...]
    others: tuple[SubFlow | Publish, ...]
    asks_balancer: bool

    @property
    def has_calls(self) -> bool:
        """Whether the run calls, runs or publishes something."""
        return bool(self.calls or self.others)

    def lines(self) -> Iterator[str]:
        """Sentences for people, each without its first capital letter and its full stop."""
        for each in self.calls:
            twice = "" if each.idempotent else ", which must not be called twice"
            yield f"it calls {each.name} at {', '.join(each.origins)}{twice}"
        for step in self.others:
            if isinstance(step, SubFlow):
                yield f"it starts a run of flow {step.flow}"
            else:
                yield f"it publishes to {step.topic}"
        if not self.has_calls:
            yield "it makes no calls"
        if self.asks_balancer:
            yield "the balancer is asked, so the run may be executed on another node"


def effects_of(config: Config, flow: Flow) -> Effects:
    """What a run of ``flow`` does with a configuration."""
    calls: list[CalledComponent] = []
    for name in sorted(components_called_by(flow, config.flows)):
        component = config.components.get(name)
        if component is not None:
            origins = sorted({str(each.post.origin) for each in component.endpoints.values()})
            calls.append(CalledComponent(name, tuple(origins), component.idempotent))
    others = tuple(step for step in flow.steps if isinstance(step, (SubFlow, Publish)))
    return Effects(tuple(calls), others, config.balancer is not None)
