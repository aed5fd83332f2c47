"""Exit codes of the commands, and the translation of errors to exit codes.

0    success: no problems were found
1    the command has found problems (check, flows test, flows fmt --check, runs record,
     journal check, journal repair, audit, demo, nodes, components, runs wait, flows try), or had
     nothing to do (runs resolve, token revoke, pair remove)
2    wrong usage
3    the configuration has errors
4    the command failed: for example, a journal or an address is in use, or an id is unknown
5    the disk of the journal failed while the node ran
124  a run has not ended in time (runs wait, flows try)
130  ended by Ctrl-C. A node ends with this code only at a second signal
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from fractal_rm.cli.safe_text import safe_lines
from fractal_rm.cli.streams import drop_output
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected

EXIT_PROBLEMS = 1
EXIT_USAGE = 2
EXIT_CONFIG = 3
EXIT_FAILED = 4
EXIT_TIMED_OUT = 124  # as that of timeout(1)
EXIT_INTERRUPTED = 130


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code. Prints an expected error as a sentence."""
    try:
        return command() or 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ConfigRejected as error:
        print_error("\n".join(finding.render() for finding in error.findings))
        return EXIT_CONFIG
    except UnicodeEncodeError:
        print_error("error: an argument is not UTF-8")
        return EXIT_USAGE
    except OSError as error:
        drop_output()  # standard output may be the cause of the error
        file = f"{error.filename}: " if error.filename else ""
        print_error(f"error: {file}{error.strerror or error}")
    except FractalError as error:
        print_error(f"error: {error}")
    return EXIT_FAILED


def print_error(text: str) -> None:
    """Print to standard error. If that fails, only the exit code reports the error."""
    with suppress(OSError):
        print(safe_lines(text), file=sys.stderr, flush=True)
