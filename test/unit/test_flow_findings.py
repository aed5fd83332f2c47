"""The exact findings about wrong flows. The flows and findings are in flow_findings.txt.

After a change of a text, run `python test/unit/test_flow_findings.py` to update the file, and check
the changes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fractal_rm.domain.findings import CODES
from fractal_rm.flowlang import compile_flows

FILE = Path(__file__).with_name("flow_findings.txt")
KNOWN = {"camera": ("1", "frame"), "detector": ("1",), "actuator": ("1", "home")}
BREAK = "\n--------\n"


def cases() -> list[tuple[str, str]]:
    """Wrong flows with their findings."""
    parts = FILE.read_text().removesuffix("\n").split(BREAK)
    return list(zip(parts[::2], parts[1::2], strict=True))


def rendered(text: str) -> str:
    _, findings = compile_flows(text, KNOWN)
    return "\n".join(finding.render() for finding in findings)


@pytest.mark.parametrize(("text", "expected"), cases())
def test_an_error_is_shown_and_explained(text, expected):
    assert rendered(text) == expected


def test_every_code_of_flows_has_a_case():
    all_findings = "".join(expected for _, expected in cases())
    missing = [code for code in CODES if code[0] == "F" and f"[{code}]" not in all_findings]
    # F113 is tested in test_config_findings.py, and F136 in test_flow_limits.py.
    assert missing == ["F113", "F136"]


if __name__ == "__main__":
    shown = [part for text, _ in cases() for part in (text, rendered(text))]
    FILE.write_text(BREAK.join(shown) + "\n")
