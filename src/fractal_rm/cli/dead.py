"""`dead`: the messages that never became a run, and what can be done with them."""

from __future__ import annotations

import click


@click.group()
def dead() -> None:
    """Dead letters: messages that were refused before they became a run."""
