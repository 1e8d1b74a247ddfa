"""Check the ``Host`` header of requests against the names by which a gateway may be reached.

DNS rebinding makes a web page's own name lead to a gateway on loopback. ``Origin`` and ``Host`` agree then, so that
the origin check lets the page in; its name in ``Host`` gives it away.
"""

import re
from collections.abc import Callable

from services.gateway.auth.settings import is_loopback

HostAllowed = Callable[[str | None], bool]
"""Of a ``Host`` header: True if a request for that host is answered."""

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/?#@\\\s]+))(?::[0-9]*)?")


def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, without port, brackets and final dot; ``None`` if malformed."""
    found = _HOST.fullmatch(host.lower())
    return None if found is None else found[1] or found[2].removesuffix(".") or None


def host_check(bind: str, allowed: tuple[str, ...]) -> HostAllowed | None:
    """Return a check for a gateway that listens on ``bind``; ``None`` if every host passes.

    Loopback names and addresses pass, and those of ``allowed``. Nothing is checked with ``*``, nor away from
    loopback while ``allowed`` is empty: the names of a public gateway are not known here.
    """
    if "*" in allowed or not (allowed or is_loopback(bind)):
        return None

    def check(host: str | None) -> bool:
        name = None if host is None else host_name(host)
        return name is not None and (name in allowed or is_loopback(name))

    return check
