"""The sessions of people who look at the pages, and the key that signs them."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path

from fractal_rm.adapters.access.tokens import Tokens
from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.access import Identity
from fractal_rm.domain.sessions import (
    KEY_BYTES,
    SESSION_MS,
    form_token,
    session_text,
    token_of_session,
)
from fractal_rm.domain.tokens import identity_of
from fractal_rm.engine.ports import Telemetry

KEY_FILE = "session.key"
_PRIVATE_FILE = 0o600


class BrowserSessions:
    """Port `Sessions`. The key is a file in the state folder, made at the first use.

    So sessions go on after a restart. If the file cannot be written, they end with the process.
    """

    def __init__(
        self, tokens: Tokens, state: Path, now_ms: Callable[[], int], telemetry: Telemetry
    ) -> None:
        self._tokens = tokens
        self._path = state / KEY_FILE
        self._now_ms = now_ms
        self._telemetry = telemetry
        self._cached_key: bytes | None = None

    def begin(self, token: str) -> tuple[str, Identity] | str:
        """Begin a session: its text, and whose it is. Or the reason why ``token`` is refused."""
        found = self._tokens.find(token)
        if isinstance(found, str):
            return found
        return session_text(self._key(), found, self._now_ms() + SESSION_MS), identity_of(found)

    def identify(self, session: str) -> Identity | None:
        """Whose session it is; None if it is not valid."""
        token = token_of_session(session, self._key(), self._tokens.all(), self._now_ms())
        return None if token is None else identity_of(token)

    def form_token(self, session: str) -> str:
        """The token that the forms of a session contain."""
        return form_token(self._key(), session)

    def is_form_token(self, session: str, text: str) -> bool:
        """Whether a form contains the form token of its session."""
        return hmac.compare_digest(self.form_token(session).encode(), text.encode(errors="replace"))

    def _key(self) -> bytes:
        if self._cached_key is None:
            self._cached_key = self._read_or_make_key()
        return self._cached_key

    def _read_or_make_key(self) -> bytes:
        try:
            key = read_regular(self._path)
        except FileNotFoundError:
            return self._new_key()
        except OSError as error:
            self._telemetry.problem("session_key_unusable", error=str(error))
            return self._new_key()
        if len(key) == KEY_BYTES:
            return key
        why = f"the file has {len(key)} bytes instead of {KEY_BYTES}, so a new key is made"
        self._telemetry.problem("session_key_unusable", error=why)
        return self._new_key()

    def _new_key(self) -> bytes:
        key = secrets.token_bytes(KEY_BYTES)
        try:
            replace_file(self._path, key, mode=_PRIVATE_FILE)
        except OSError as error:
            self._telemetry.problem("session_key_unusable", error=str(error))
        return key
