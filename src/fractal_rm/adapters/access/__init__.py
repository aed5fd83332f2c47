"""Who may use the HTTP interface: the tokens and certificates of a running node."""

from fractal_rm.adapters.access.invitations import Invitations
from fractal_rm.adapters.access.joining import JoiningNodes
from fractal_rm.adapters.access.sessions import BrowserSessions
from fractal_rm.adapters.access.tokens import Tokens

__all__ = ["BrowserSessions", "Invitations", "JoiningNodes", "Tokens"]
