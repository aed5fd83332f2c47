"""Whether a form was sent from a page of this node, by what the browser says about it.

Every browser since 2023 sends ``Sec-Fetch-Site`` to HTTPS and to loopback, and ``Origin`` with each
form. A text browser may send neither. Scripts cannot set these headers (Fetch, 4.6).
"""

from __future__ import annotations

from fractal_rm.domain.address import read_origin

# The form was sent from a page of the same scheme, host and port; or by a person without any page.
_FROM_HERE = ("same-origin", "none")


def sent_from_here(
    fetch_site: str | None,
    origin: str | None,
    host: str,
    public: tuple[str, str, int] | None,
) -> bool | None:
    """Whether a page of this node has sent a form. None: the browser does not say.

    ``fetch_site``, ``origin`` and ``host`` are header fields. ``public`` is the protocol, host and
    port of ``rest.public_url``. A page of another port of the same host is another site: it may
    belong to another program. The protocol of ``host`` is not known behind a proxy that ends TLS.
    """
    if fetch_site is not None and fetch_site not in _FROM_HERE:
        return False
    if origin is None:
        return None if fetch_site is None else True
    found = read_origin(origin.encode("latin-1", "replace"))
    if found is None:
        return False
    own = read_origin(f"{found[0]}://{host}".encode("latin-1", "replace"))
    return found in (own, public)
