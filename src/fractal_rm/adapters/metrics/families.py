"""The metrics: name, kind, labels and meaning of each. docs/reference/metrics.md explains them."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "fractal_rm_"


class Family(NamedTuple):
    """A metric. ``kind`` is ``counter``, ``gauge`` or ``histogram``. Durations are in seconds."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    def head(self) -> str:
        """The lines before the values."""
        return f"# HELP {self.name} {self.meaning}\n# TYPE {self.name} {self.kind}\n"


def _own(kind: str, name: str, meaning: str, *labels: str) -> Family:
    return Family(PREFIX + name, kind, labels, meaning)


TRIGGERS = _own(
    "counter", "triggers_total", "Triggers by how they arrived and how they were answered.",
    "source", "outcome",
)  # fmt: skip
MQTT_MESSAGES = _own(
    "counter", "mqtt_messages_total", "Received MQTT messages, also repeated ones.", "qos"
)
MQTT_CONNECTED = _own("gauge", "mqtt_connected", "1 if messages of the broker can be received.")
RUNS_SETTLED = _own(
    "counter", "runs_settled_total", "Runs that have ended, by their last state.", "flow", "state"
)
RUN_DURATION = _own(
    "histogram", "run_duration_seconds",
    "Time from the acceptance to the end of a run; not of runs that another node executes.", "flow",
)  # fmt: skip
RUN_QUEUE = _own(
    "histogram", "run_queue_seconds",
    "Time from the acceptance of a run until its node was chosen.", "flow",
)  # fmt: skip
RUNS_OPEN = _own("gauge", "runs_open", "Runs that have not ended, by state.", "state")
RUNS_WAITING = _own("gauge", "runs_waiting", "Runs that wait in the queue.")
RUNS_IN_FLIGHT = _own("gauge", "runs_in_flight", "Runs that are being placed or executed.")
OLDEST_WAITING = _own(
    "gauge", "oldest_waiting_seconds", "Since when the oldest run waits to begin; 0: none waits."
)
CALLS = _own(
    "counter", "calls_total", "Attempts to call a component: succeeded, or why they failed.",
    "component", "outcome",
)  # fmt: skip
CALL_DURATION = _own(
    "histogram", "call_duration_seconds", "Time of each call that succeeded.", "component"
)
CALL_RETRIES = _own(
    "counter", "call_retries_total", "Failed attempts after which the call is tried again.",
    "component",
)  # fmt: skip
CIRCUIT_STATE = _own(
    "gauge", "circuit_state", "1 for the state that the circuit of a component has.",
    "component", "state",
)  # fmt: skip
PLACEMENTS = _own(
    "counter", "placements_total", "Choices of the node of a run: here, or the id of a node.",
    "place", "cause",
)  # fmt: skip
HANDOFFS = _own(
    "counter", "handoffs_total", "Offers of runs to other nodes, and how they ended.",
    "node", "outcome",
)  # fmt: skip
DEAD_LETTERS = _own(
    "counter", "dead_letters_total", "Messages and runs that were set aside, by cause.", "code"
)
COMMIT_DURATION = _own(
    "histogram", "journal_commit_duration_seconds",
    "Time of each sync of the journal that senders wait for.",
)  # fmt: skip
JOURNAL_BYTES = _own("gauge", "journal_bytes", "Size of all files of the journal, in bytes.")
UNPROJECTED_BYTES = _own(
    "gauge", "journal_unprojected_bytes", "Bytes of the log that are not in the history yet."
)
JOURNAL_BLOCKED = _own("gauge", "journal_blocked", "1 if the journal cannot be written now.")
TRACES = _own(
    "counter", "traces_total", "Ended runs whose trace was exported, or was dropped.", "outcome"
)
PAUSED = _own("gauge", "paused", "1 if an operator has paused the node.")
DRAINING = _own("gauge", "draining", "1 if the node takes no new runs.")
CHECK_OK = _own("gauge", "check_ok", "1 if a check of /readyz is well.", "check")
BUILD_INFO = _own("gauge", "build_info", "Always 1.", "version", "node", "journal")
CPU = Family("process_cpu_seconds_total", "counter", (), "CPU time of the process.")
MEMORY = Family("process_resident_memory_bytes", "gauge", (), "Memory in use.")
OPEN_FILES = Family("process_open_fds", "gauge", (), "Open file descriptors.")
MAX_FILES = Family("process_max_fds", "gauge", (), "Limit of open file descriptors.")
START_TIME = Family(
    "process_start_time_seconds", "gauge", (), "When the process began, in seconds since 1970."
)

FAMILIES = (
    TRIGGERS, MQTT_MESSAGES, MQTT_CONNECTED, RUNS_SETTLED, RUN_DURATION, RUN_QUEUE, RUNS_OPEN,
    RUNS_WAITING, RUNS_IN_FLIGHT, OLDEST_WAITING, CALLS, CALL_DURATION, CALL_RETRIES, CIRCUIT_STATE,
    PLACEMENTS, HANDOFFS, DEAD_LETTERS, COMMIT_DURATION, JOURNAL_BYTES, UNPROJECTED_BYTES,
    JOURNAL_BLOCKED, TRACES, PAUSED, DRAINING, CHECK_OK, BUILD_INFO, CPU, MEMORY, OPEN_FILES,
    MAX_FILES, START_TIME,
)  # fmt: skip
