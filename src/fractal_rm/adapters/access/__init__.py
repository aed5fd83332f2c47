"""Who may use the HTTP interface: the tokens and certificates of a running node."""

from fractal_rm.adapters.access.tokens import Tokens as Tokens
