"""The valid tokens of a running node."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.access.invitations import Invitations
from fractal_rm.config.regular_file import Version, file_version, stat_regular
from fractal_rm.config.token_file import TokenFile, TokensUnreadable
from fractal_rm.domain.access import Identity
from fractal_rm.domain.expiry import WARN_MS, days_text
from fractal_rm.domain.pairing import NOT_KNOWN, SECRET_PREFIX
from fractal_rm.domain.tokens import Token, find_token, identity_of
from fractal_rm.engine.ports import Telemetry


class Tokens:
    """Port `Authenticator`: finds who sends a token.

    The file is checked at each token, so a token that was revoked is refused at the next request.
    While the file cannot be read, no token is valid.
    """

    def __init__(
        self,
        file: TokenFile,
        now_ms: Callable[[], int],
        telemetry: Telemetry,
        invitations: Invitations | None = None,
    ) -> None:
        """``now_ms`` reads the wall clock, as expiry dates are calendar dates."""
        self._file = file
        self._invitations = invitations
        self._now_ms = now_ms
        self._telemetry = telemetry
        self._version: Version | str | None = None
        self._tokens: list[Token] = []

    @property
    def has_tokens(self) -> bool:
        """Whether the node has a token, expired or not."""
        self._read_if_changed()
        return bool(self._tokens)

    @property
    def is_inviting(self) -> bool:
        """Whether another node may send the secret of an open invitation now."""
        return self._invitations is not None and self._invitations.opened() is not None

    def identify(self, token: str) -> Identity | str:
        """The client that sends a token, or why the token is refused."""
        if token.startswith(SECRET_PREFIX) and self._invitations is not None:
            return self._invitations.identify(token)
        found = self.find(token)
        return found if isinstance(found, str) else identity_of(found)

    def find(self, text: str) -> Token | str:
        """The token with this text, or why it is refused."""
        found = find_token(self.all(), text)
        if found is None:
            return NOT_KNOWN
        if found.has_expired(self._now_ms()):
            return f"the token {found.name} has expired"
        return found

    def all(self) -> list[Token]:
        """Every token of the node, expired or not."""
        self._read_if_changed()
        return self._tokens

    def warnings(self) -> list[str]:
        """Sentences about the tokens that expire within a fortnight, or have expired."""
        self._read_if_changed()
        now_ms = self._now_ms()
        return [
            f"the token {token.name} {_expiry(token, now_ms)}"
            for token in self._tokens
            if token.has_expired(now_ms + WARN_MS)
        ]

    def _read_if_changed(self) -> None:
        version = self._current_version()
        if version == self._version:
            return
        try:
            self._tokens = self._file.read()
        except TokensUnreadable as error:
            self._tokens = []
            self._telemetry.problem("tokens_unreadable", error=str(error))
        self._version = version

    def _current_version(self) -> Version | str | None:
        """What identifies the content of the file now; None: there is no file."""
        try:
            return file_version(stat_regular(self._file.path))
        except FileNotFoundError:
            return None
        except OSError as error:
            return str(error)


def _expiry(token: Token, now_ms: int) -> str:
    """When a token expires, or that it has expired."""
    left_ms = (token.expires_ms or now_ms) - now_ms
    if left_ms <= 0:
        return "has expired"
    return f"expires in {days_text(left_ms)}"
