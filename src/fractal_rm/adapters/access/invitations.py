"""The open invitation of a node, and what happens when its secret is sent."""

from __future__ import annotations

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.invitation_file import read_invitation
from fractal_rm.config.pair_files import PairFolder
from fractal_rm.config.staged_files import PRIVATE
from fractal_rm.domain.access import Identity
from fractal_rm.domain.pairing import (
    INVITED,
    MAX_WRONG_SECRETS,
    NOT_KNOWN,
    StoredInvitation,
)
from fractal_rm.engine.ports import Clock, Telemetry


class Invitations:
    """Recognizes the secret of the invitation that `pair invite` has stored.

    A wrong secret is answered like a wrong token, whether an invitation exists or not. After
    `MAX_WRONG_SECRETS` wrong secrets, the invitation is void.
    """

    def __init__(self, folder: PairFolder, clock: Clock, telemetry: Telemetry) -> None:
        self._path = folder.invitation
        self._clock = clock
        self._telemetry = telemetry
        self._wrong: tuple[str, int] = ("", 0)  # the invitation, and how many wrong secrets came

    def identify(self, secret: str) -> Identity | str:
        """Return INVITED for the right secret, otherwise why it is refused."""
        stored = read_invitation(self._path)
        if stored is None:
            return NOT_KNOWN
        if not stored.is_for(secret):
            self._count_wrong(stored)
            return NOT_KNOWN
        reason = stored.why_refused(self._clock.moment())
        if reason is None and self._is_void(stored):
            reason = msgspec.structs.replace(stored, has_failed=True).why_refused(
                self._clock.moment()
            )
        if reason is not None:
            self._telemetry.problem("pair_refused", reason=reason)
            return reason
        return INVITED

    def opened(self) -> StoredInvitation | None:
        """The invitation that can be used now, or None."""
        stored = read_invitation(self._path)
        if stored is None or self._is_void(stored):
            return None
        return stored if stored.why_refused(self._clock.moment()) is None else None

    def _is_void(self, stored: StoredInvitation) -> bool:
        invitation, count = self._wrong
        return stored.has_failed or (invitation == stored.sha256 and count >= MAX_WRONG_SECRETS)

    def _count_wrong(self, stored: StoredInvitation) -> None:
        """Count a wrong secret. The last one is stored, so that a restart changes nothing."""
        if self._is_void(stored) or stored.why_refused(self._clock.moment()) is not None:
            return
        invitation, count = self._wrong
        count = count + 1 if invitation == stored.sha256 else 1
        self._wrong = stored.sha256, count
        reason = (
            f"a wrong secret was sent; {MAX_WRONG_SECRETS - count} more make the invitation void"
        )
        if count >= MAX_WRONG_SECRETS:
            reason = "a wrong secret was sent; now the invitation is void"
        self._telemetry.problem("pair_refused", reason=reason)
        if count >= MAX_WRONG_SECRETS:
            void = msgspec.structs.replace(stored, has_failed=True)
            try:
                replace_file(self._path, msgspec.json.encode(void), mode=PRIVATE)
            except OSError as error:  # this process treats it as void until it ends
                self._telemetry.problem("invitation_not_void_on_disk", reason=str(error))
