"""Runs this node for triggers by REST, with the configuration beside this file."""

import sys
from pathlib import Path

from fractal_rm.cli.main import main

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.argv[1:] = ["api", "--config", str(here / "config_files"), *sys.argv[1:]]
    main()
