"""Runs a node that accepts triggers by REST, with the configuration in config_files."""

import sys
from pathlib import Path

try:
    from fractal_rm.cli.launch import launch
except ModuleNotFoundError as error:
    sys.exit(
        f"the Python package {error.name} is not installed. Activate the virtual environment:"
        " . .venv/bin/activate, or install the packages: pip install -r requirements.txt"
    )

if __name__ == "__main__":
    launch("api", Path(__file__).resolve().parent / "config_files")
