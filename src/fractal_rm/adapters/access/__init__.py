"""Who may use the HTTP interface: tokens and certificates on the disk."""

from fractal_rm.adapters.access.token_file import TokenFile as TokenFile
from fractal_rm.adapters.access.tokens import Tokens as Tokens
