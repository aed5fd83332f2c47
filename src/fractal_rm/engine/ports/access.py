"""The ports of access control: who sends a token, and who has signed in with one."""

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


class Sessions(Protocol):
    """The sessions of people who have signed in to the pages with a token."""

    def begin(self, token: str) -> tuple[str, Identity] | str:
        """Begin a session: its text, and whose it is. Or the reason why ``token`` is refused."""
        ...

    def identify(self, session: str) -> Identity | None:
        """Whose session it is; None if it is not valid."""
        ...

    def form_token(self, session: str) -> str:
        """The token that the forms of a session contain. ``session`` is empty without one."""
        ...

    def is_form_token(self, session: str, text: str) -> bool:
        """Whether a form contains the form token of its session."""
        ...
