"""Sends requests of commands to the running processes of a state folder."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from fractal_rm.adapters.local_socket.folder_actions import FolderActions
from fractal_rm.adapters.sqlite import SqliteHistory


def folder_actions(state: Path) -> FolderActions:
    """What acts on the runs of a state folder, for the user of this command."""
    return FolderActions(state, SqliteHistory(state), sudo_user=sudo_user())


def sudo_user() -> str:
    """The user who has called this command with sudo; empty if it was called without sudo."""
    return os.environ.get("SUDO_USER", "") if os.getuid() == 0 else ""


def own_name() -> str:
    """The login name of the user who runs this command, also if the user has used sudo."""
    user_id = os.getuid()
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:
        name = f"user {user_id}"
    return f"{name} (sudo of {sudo_user():.40})" if sudo_user() else name
