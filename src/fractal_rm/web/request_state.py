"""The keys in the state of an ASGI request (``scope["state"]``)."""

from __future__ import annotations

IDENTITY = "identity"  # the client's `Identity`
# A function that is called when the client sends nothing more: then a stream that has no end of its
# own ends.
AT_EOF = "at_eof"
# A function, if the request is for a page. It is called with the reason when somebody wants to sign
# in with a token that is not valid; see `Client.token_refused`.
TOKEN_REFUSED = "token_refused"  # noqa: S105 - not a token
