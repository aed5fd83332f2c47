"""The files that pages load are those of the manifest, and a wheel contains them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "src/fractal_rm/web/pages"
FOLDERS = [PAGES / "assets", ROOT / "test/browser/axe"]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_file_from_elsewhere_is_unchanged_and_has_its_licence_beside_it(folder):
    for each in manifest(folder)["from_elsewhere"]:
        content = (folder / each["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == each["sha256"], each["file"]
        assert all((folder / name).read_text().strip() for name in each["licence_files"])
        assert each["version"] in each["source"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_asset_is_in_the_manifest(folder):
    listed = manifest(folder)
    names = ["manifest.json", *listed["own"]]
    for each in listed["from_elsewhere"]:
        names += [each["file"], *each["licence_files"]]

    assert sorted(each.name for each in folder.iterdir()) == sorted(names)


@pytest.mark.slow
def test_a_wheel_contains_the_templates_and_the_assets(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    files = [*(PAGES / "assets").iterdir(), *(PAGES / "templates").iterdir()]
    assert {str(each.relative_to(ROOT / "src")) for each in files} <= inside
