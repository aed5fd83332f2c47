"""Runs this node for triggers by MQTT, with the configuration beside this file."""

import sys
from pathlib import Path

try:
    from fractal_rm.cli.launch import launch
except ModuleNotFoundError as error:
    sys.exit(
        f"no {error.name} here: . .venv/bin/activate first, or pip install -r requirements.txt"
    )

if __name__ == "__main__":
    launch("mqtt", Path(__file__).resolve().parent / "config_files")
