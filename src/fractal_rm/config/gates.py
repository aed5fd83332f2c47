"""Reads what limits the calls to a component: the keys ``limit``, ``rate`` and ``circuit``."""

from __future__ import annotations

from fractal_rm.config.section import Section
from fractal_rm.domain.circuit import CircuitRule
from fractal_rm.domain.gate_rule import NO_RULE, GateRule
from fractal_rm.domain.rate import MAX_COUNT, RATE_HINT, Rate, read_rate, similar_rate

MAX_IN_FLIGHT = 100_000


def read_gate(config: Section) -> GateRule | None:
    """Read the keys of a component. Returns None if nothing limits its calls."""
    rule = GateRule(read_limit(config), _rate(config), _circuit(config))
    return None if rule == NO_RULE else rule


def read_limit(config: Section) -> int | None:
    """Read the key ``limit``. Returns None if the key is absent, which means no limit."""
    return config.integer("limit", 0, 1, MAX_IN_FLIGHT) or None


def _rate(config: Section) -> Rate | None:
    """Read the key ``rate``, such as ``"10/s"``."""
    text = config.text("rate")
    if text is None:
        return None
    rate = read_rate(text)
    if rate is None:
        similar = similar_rate(text)
        hint = f'did you mean "{similar}"?' if similar else f"from 1 to {MAX_COUNT:,}: {RATE_HINT}"
        config.bad("rate", f'rate is "{text:.40}", which is not a rate', hint)
    return rate


def _circuit(config: Section) -> CircuitRule | None:
    """Read the key ``circuit``: true, or an object with the keys that differ from the default."""
    inner = config.section_or_flag("circuit")
    default = CircuitRule()
    if isinstance(inner, bool):
        return default if inner else None
    rule = CircuitRule(
        failures=inner.fraction("failures", default.failures, 0.01),
        window_s=inner.seconds("window_s", default.window_s, 3_600),
        least_calls=inner.integer("least_calls", default.least_calls, 1, 100_000),
        open_s=inner.seconds("open_s", default.open_s, 3_600),
        waiting=inner.integer("waiting", default.waiting, 0, 10_000),
    )
    inner.finish()
    return rule
