"""The file of an invitation: ``pair/invitation.json`` in the state folder, mode 0600."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.staged_files import PRIVATE, FileChange
from fractal_rm.domain.pairing import StoredInvitation
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as


def read_invitation(path: Path) -> StoredInvitation | None:
    """Read the invitation. None if there is none, or if the file cannot be used."""
    try:
        return read_json_as(read_regular(path), StoredInvitation)
    except (OSError, Malformed, msgspec.ValidationError):
        return None


def invitation_change(path: Path, invitation: StoredInvitation) -> FileChange:
    """The change that stores an invitation. It replaces an earlier one."""
    return FileChange(path, msgspec.json.encode(invitation), PRIVATE)
