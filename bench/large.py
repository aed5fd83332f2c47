"""Measures the bytes that a flow with large values writes: ``python -m bench.large [SRC ...]``.

Each SRC is the `src` folder of another commit, to compare with. Each flow has a payload of 256 KiB
and a result of 256 KiB. A script writes the flows into a journal, without a node. The figure
includes the bytes of the history, and the bytes that the journal writes when it is closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.disks import separate_disk

ROOT = Path(__file__).parent.parent
FLOWS = 200
VALUE_KIB = 256
WRITER = """
import asyncio, inspect, sys
from pathlib import Path
import msgspec
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite.write import limits
from fractal_rm.domain.facts import Finished, Settled
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, entry, write

Limits = getattr(limits, "HistoryLimits", None) or limits.Keep  # Keep: in earlier commits
# In earlier commits, the argument is named "keep".
names = inspect.signature(open_journal).parameters
LIMITS = "limits" if "limits" in names else "keep"

async def main(folder, flows, kib):
    journal = open_journal(
        Path(folder) / "up.journal", retention_ms=lambda: 1_000, on_lost=print,
        **{LIMITS: lambda: Limits(1 << 30, 1 << 40, 1 << 30, 1 << 40)})
    await journal.open()
    value = b'"%b"' % (b"x" * kib * 1024)
    for n in range(flows):
        first = accepted(payload=value)
        await journal.accept(entry(f"run-{n:05}", facts=(first,)))
        run = fold(Run(f"run-{n:05}", FLOW, 1_000), [first])
        await write(journal, run, Finished(1, 200, 0.1, msgspec.Raw(value)))
        await write(journal, run, Settled(State.SUCCEEDED))
    await journal.close(clean=True)

asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
"""


def main(sources: list[str]) -> None:
    """Measure this commit and each of ``sources``, and print a line for each."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        for number, source in enumerate([str(ROOT / "src"), *sources]):
            with separate_disk(Path(folder, str(number))) as disk:
                before_bytes = disk.written_bytes()
                subprocess.run(
                    [sys.executable, "-c", WRITER, disk.folder, str(FLOWS), str(VALUE_KIB)],
                    check=True, env=os.environ | {"PYTHONPATH": source},
                )  # fmt: skip
                written_kib = (disk.written_bytes() - before_bytes) / 1024 / FLOWS
            print(
                f"{source}: {written_kib:,.0f} KiB written for each flow with {2 * VALUE_KIB} KiB"
                f" of values (bytes are counted as {disk.counted_as})"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
