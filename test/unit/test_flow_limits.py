"""The number of shown findings is limited. The other findings are counted."""

from __future__ import annotations

from random import Random

import pytest

from fractal_rm.domain.findings import MAX_SHOWN_FINDINGS, Finding, Level
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.report import MAX_SHOWN_IN_LINE

KNOWN = {"camera": ("1",)}
SIZE = 1 << 18


def findings(text: str) -> list[Finding]:
    _, found = compile_flows(text, KNOWN)
    return found


def test_a_thousand_findings_of_a_file_are_shown_and_the_rest_is_counted():
    *shown_findings, last = findings("1\nTO camera 1\n" + "POST paylod\n" * 1_500)
    assert [finding.place.line for finding in shown_findings] == list(
        range(3, MAX_SHOWN_FINDINGS + 3)
    )
    assert last.render() == (
        "flows.conf: error[F136]: 500 more findings of flows.conf are not shown\n"
        "  help: correct the findings above, then check again"
    )


def test_twenty_findings_of_a_line_are_shown_and_the_rest_is_counted():
    *shown_findings, other, last = findings("1\nTO camera 1\nPOST" + " paylod" * 100 + "\nPOST x\n")
    assert len(shown_findings) == MAX_SHOWN_IN_LINE
    assert other.place.line == 4
    assert last.text.startswith("80 more findings")


def test_the_count_of_hidden_findings_is_an_error_if_one_of_them_is_an_error():
    empty = "".join(f"{number}\n\n" for number in range(MAX_SHOWN_FINDINGS + 10))
    assert findings(empty)[-1].level is Level.WARNING
    assert findings(empty + "9999\nWAIT\n")[-1].level is Level.ERROR


def random_characters() -> str:
    characters = "".join(map(chr, range(32, 127))) + "\n\n\n   "
    return "".join(Random(1).choices(characters, k=SIZE))


# Functions that make texts of 256 KiB. The texts are invalid, or a parser with backtracking would
# be slow to parse them.
GARBAGE = {
    "characters": random_characters,
    "latin": lambda: Random(1).randbytes(SIZE).decode("latin-1"),
    "lines": lambda: "1\n" + "psot payload\n" * (SIZE // 13),
    "words": lambda: "1\nTO camera 1\nPOST" + " x" * (SIZE // 2),
    "a word": lambda: "1\n" + "x" * SIZE,
    "quotes": lambda: "1\nTO camera 1\n" + 'POST "a\n' * (SIZE // 8),
    "brackets": lambda: "1\nTO camera 1\nGET\n  WHEN " + "(" * SIZE,
    "topics": lambda: "1\n" + "".join(f"ON a/{n}\n" for n in range(SIZE // 11)),
    "names": lambda: (
        "1\nTO camera 1\n" + "".join(f"POST b{n}\n  AS a{n}\n" for n in range(SIZE // 22))
    ),
    "no such flow": lambda: "".join(f"{n}\nRUN x{n}\n\n" for n in range(SIZE // 19)),
    "loops": lambda: (
        "1\n"
        + "".join(f"ON a/{n}/+\n" for n in range(SIZE // 32))
        + "PUBLISH a/b/c\n" * (SIZE // 32)
        + "POST\n"
    ),
    "cycles": lambda: "".join(f"{n}\nRUN {n + 1}\nRUN 0\n\n" for n in range(SIZE // 24)),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_a_large_text_gives_a_bounded_number_of_short_findings(text):
    all_findings = findings(text())
    assert 1 <= len(all_findings) <= MAX_SHOWN_FINDINGS + 1
    assert sum(len(finding.render()) for finding in all_findings) < 1 << 20
