"""The port of access control: who sends a token."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.access import Identity


class Authenticator(Protocol):
    """Recognizes the tokens of this node."""

    @property
    def has_tokens(self) -> bool:
        """Whether a token could be valid: the node has at least one."""
        ...

    @property
    def is_inviting(self) -> bool:
        """Whether another node may send the secret of an open invitation now."""
        ...

    def warnings(self) -> list[str]:
        """Sentences about tokens that expire soon or have expired."""
        ...

    def identify(self, token: str) -> Identity | str:
        """The client that sends a token, or why the token is refused.

        For the secret of an open invitation, the client is `domain.pairing.INVITED`.
        """
        ...
