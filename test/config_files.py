"""Copies and changes the shipped configuration, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fractal_rm.config.load import load
from fractal_rm.domain.findings import CODES, ConfigRejected

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "runtime_manager" / "config_files"


def copy_shipped(folder: Path) -> Path:
    """Copy the shipped configuration to a folder. Returns the new configuration folder."""
    return Path(shutil.copytree(SHIPPED, folder / "config_files"))


def write(folder: Path, name: str, content: object) -> None:
    """Write the file ``name``.conf. Content that is not a string is written as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"{name}.conf").write_text(text)


def edit(folder: Path, name: str, **changes: object) -> None:
    """Set keys in the file ``name``.conf. ``a__b=1`` sets the key b of the object a to 1."""
    content = json.loads((folder / f"{name}.conf").read_text())
    for path, value in changes.items():
        inner = content
        *outer, last = path.split("__")
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = value
    write(folder, name, content)


def findings(folder: Path, **environ: str) -> list[str]:
    """Load a configuration. Returns "<file> <code>" for each error and each warning."""
    try:
        all_findings = load(folder, environ).warnings
    except ConfigRejected as error:
        all_findings = error.findings
    assert all(finding.code in CODES for finding in all_findings)
    return [f"{finding.file} {finding.code}" for finding in all_findings]
