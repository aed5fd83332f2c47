"""Who may do what over HTTP: scopes, identities, and the rule that compares them.

A request needs one scope. A client has the scopes of its identity:

    a program on this machine     TRIGGER, READ and PAYLOAD, without a token
    a token                       the scopes that were given to it
    a peer in rest.trusted_peers  TRIGGER, at rest.endpoint only
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec


class Scope(Enum):
    """What a client may do. A scope does not include another one, except that ADMIN has all."""

    TRIGGER = "trigger"  # start runs
    READ = "read"  # list flows and runs, with their states and reasons
    PAYLOAD = "payload"  # see payloads, results and replies of runs
    OPERATE = "operate"  # pause, drain, resolve runs
    ADMIN = "admin"  # everything


class Identity(msgspec.Struct, frozen=True):
    """Who sends a request. ``name`` is shown in logs, such as ``token line-3``."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this client has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


THIS_MACHINE = Identity("this machine", frozenset({Scope.TRIGGER, Scope.READ, Scope.PAYLOAD}))
NOBODY = Identity("nobody", frozenset())  # looks at the pages, and has not signed in
TRUSTED_PEER = Identity("trusted peer", frozenset({Scope.TRIGGER}))


def scope_texts(scopes: Iterable[Scope]) -> list[str]:
    """The names of scopes, in the order of `Scope`."""
    wanted = set(scopes)
    return [scope.value for scope in Scope if scope in wanted]
