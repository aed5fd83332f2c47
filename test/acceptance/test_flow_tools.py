"""The commands `flows fmt`, `flows graph` and `flows export`."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import programs

SHIPPED = Path(__file__).parents[2] / "runtime_manager" / "config_files"
NOT_CANONICAL = "1  \r\n  TO component1   1 # there\r\nPOST   payload"
CANONICAL = "1\nTO component1 1  # there\nPOST payload\n"


@pytest.fixture
def folder(tmp_path):
    """A configuration folder whose flows.conf is valid but does not have the canonical text."""
    folder = tmp_path / "config_files"
    shutil.copytree(SHIPPED, folder)
    (folder / "flows.conf").write_bytes(NOT_CANONICAL.encode())
    return folder


def file_names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def flows(
    folder: Path, *words: str, standard_input: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `fractal-rm flows`. Asserts that the output has no traceback."""
    result = programs.run("flows", *words, "--config", folder, stdin=standard_input.encode())
    assert b"Traceback" not in result.stdout + result.stderr
    return result


def test_fmt_writes_the_canonical_text_and_keeps_the_mode(folder):
    file = folder / "flows.conf"
    file.chmod(0o640)
    assert flows(folder, "fmt").stdout == b"flows.conf: was changed\n"
    assert file.read_bytes() == CANONICAL.encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file_names(folder) == file_names(SHIPPED)


def test_fmt_does_not_write_a_file_that_is_canonical(folder):
    file = folder / "flows.conf"
    file.write_text(CANONICAL)
    stat_before = file.stat()
    assert flows(folder, "fmt").stdout == b"flows.conf: is well formatted\n"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (
        stat_before.st_ino,
        stat_before.st_mtime_ns,
    )


def test_fmt_changes_the_target_of_a_symbolic_link(folder, tmp_path):
    file = folder / "flows.conf"
    file.rename(tmp_path / "real.conf")
    file.symlink_to(tmp_path / "real.conf")
    assert flows(folder, "fmt").returncode == 0
    assert file.is_symlink()
    assert (tmp_path / "real.conf").read_text() == CANONICAL


def test_fmt_with_the_option_check_changes_nothing(folder):
    result = flows(folder, "fmt", "--check")
    assert (result.returncode, result.stdout) == (1, b"flows.conf: would change\n")
    assert (folder / "flows.conf").read_bytes() == NOT_CANONICAL.encode()
    (folder / "flows.conf").write_text(CANONICAL)
    assert flows(folder, "fmt", "--check").returncode == 0


def test_fmt_does_not_change_a_file_with_errors(folder):
    broken = NOT_CANONICAL.replace("POST", "PSOT").encode()
    (folder / "flows.conf").write_bytes(broken)
    result = flows(folder, "fmt")
    assert result.returncode == 3
    assert b"error[F101]" in result.stderr
    assert (folder / "flows.conf").read_bytes() == broken
    (folder / "flows.conf").write_bytes(b"1 \xff\n")
    assert b"F113" in flows(folder, "fmt").stderr


def test_fmt_does_not_check_that_the_endpoint_of_an_undo_exists(folder):
    text = "1\nTO component1 1\nPOST payload\n  UNDO back result1\nTO component2 1\nGET\n  UNDO 2\n"
    (folder / "flows.conf").write_text(text)
    assert flows(folder, "fmt", "--check").stdout == b"flows.conf: is well formatted\n"


def test_fmt_formats_standard_input(folder):
    text = NOT_CANONICAL.replace("component1", "no-such-component")
    result = flows(folder, "fmt", "-", standard_input=text)
    assert result.stdout.decode() == CANONICAL.replace("component1", "no-such-component")
    assert (folder / "flows.conf").read_bytes() == NOT_CANONICAL.encode()
    assert flows(folder, "fmt", "--check", "-", standard_input=text).returncode == 1
    assert flows(folder, "fmt", "-", standard_input="1\nPSOT").returncode == 3


def test_graph_prints_svg_or_mermaid(folder):
    ET.fromstring(flows(folder, "graph", "1", "--format", "svg").stdout)
    assert flows(folder, "graph", "1").stdout.startswith(b"flowchart TD\n")
    assert flows(folder, "graph", "9").returncode == 4


def test_export_prints_the_arazzo_description_or_writes_it_and_openapi_to_files(folder, tmp_path):
    printed = json.loads(flows(folder, "export", "1", "--to", "arazzo").stdout)
    out = tmp_path / "out"
    result = flows(folder, "export", "1", "--to", "arazzo", "--output", str(out))
    assert file_names(out) == ["component1.openapi.json", "flow-1.arazzo.json"]
    assert result.stdout.decode().split() == [
        str(out / "flow-1.arazzo.json"), str(out / "component1.openapi.json"),
    ]  # fmt: skip
    assert json.loads((out / "flow-1.arazzo.json").read_text()) == printed
