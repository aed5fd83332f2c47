"""draft"""
import sys
from pathlib import Path
def main() -> None:
    from fractal_rm.wiring import serve
    mode=sys.argv[1]
    sys.exit(serve(Path(sys.argv[3]), mqtt=mode in ("up","mqtt"), rest=mode in ("up","api"), journal=mode))
