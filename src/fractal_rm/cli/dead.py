"""`dead`: the messages that never became a run, and what can be done with them."""

from __future__ import annotations

import click

from fractal_rm.cli.dead_act import discard_dead, send_dead
from fractal_rm.cli.dead_list import list_dead, show_dead


@click.group()
def dead() -> None:
    """Dead letters: messages that were refused before they became a run."""


dead.add_command(list_dead)
dead.add_command(show_dead)
dead.add_command(send_dead)
dead.add_command(discard_dead)
