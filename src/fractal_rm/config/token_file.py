"""The token file: ``tokens.json`` in the state folder, readable by its owner only.

Commands replace the file as a whole, one after the other: a lock on the folder keeps them from
overwriting each other's change. A running node reads the file again when it has changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file, sync_folder
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.domain.tokens import Token

NAME = "tokens.json"
PRIVATE = 0o600


class TokensUnreadable(FractalError):
    """The token file exists and cannot be read. The text names the cause and the remedy."""

    code = "tokens-unreadable"


class TokensNotWritten(FractalError):
    """The token file cannot be written. The text names the cause and the remedy."""

    code = "tokens-not-written"


class TokenFile:
    """The tokens of a state folder."""

    def __init__(self, state: Path) -> None:
        self.path = state / NAME

    def read(self) -> list[Token]:
        """Read all tokens. There are none without a file. Raises TokensUnreadable."""
        try:
            return read_json_as(read_regular(self.path), list[Token])
        except FileNotFoundError:
            return []
        except (Malformed, msgspec.ValidationError) as error:
            raise TokensUnreadable(
                f"{self.path} cannot be read: {error}; no token is valid until you delete the file"
                " and make new tokens"
            ) from None
        except OSError as error:
            raise TokensUnreadable(
                f"{self.path} cannot be read: {error.strerror or error}; no token is valid until"
                " the user of the node can read it"
            ) from error

    def has_tokens(self) -> bool:
        """Whether the file has a token. A file that cannot be read has none."""
        try:
            return bool(self.read())
        except TokensUnreadable:
            return False

    @contextmanager
    def changing(self) -> Generator[list[Token]]:
        """Read the tokens for a change in a ``with`` block, and write them at its end.

        Raises TokensUnreadable, TokensNotWritten. An exception in the block changes nothing.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A lock on the folder, because a lock file of root would lock out the node's user.
            lock = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._not_written(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.read()
            yield tokens
            try:
                replace_file(self.path, msgspec.json.format(msgspec.json.encode(tokens)),
                             mode=PRIVATE)  # fmt: skip
                sync_folder(self.path.parent)
            except OSError as error:
                raise self._not_written(error) from error
        finally:
            os.close(lock)

    def _not_written(self, error: OSError) -> TokensNotWritten:
        remedy = "run this command as the user of the node"
        if error.errno == errno.ENOSPC:
            remedy = "make room on the disk"
        return TokensNotWritten(
            f"{self.path} cannot be written: {error.strerror or error}; {remedy}"
        )
