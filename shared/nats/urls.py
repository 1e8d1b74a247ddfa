"""Addresses of NATS servers, as `NATS_URL` and `--nats` take them."""

import re
from urllib.parse import urlsplit

SCHEMES = ("nats", "tls")
FORM = "must be NATS servers like nats://host:4222, comma separated"
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+")


def checked(urls: str) -> str:
    """Return ``urls`` if each of the comma separated servers is one that can be connected to.

    Raises ``ValueError``, with a text that has no password in it.
    """
    for url in urls.split(","):
        _check(url.strip())
    return urls


def _check(url: str) -> None:
    if not url:
        raise ValueError(f"{FORM}: one of them is empty")
    scheme, there, _ = url.partition("://")
    if there and scheme not in SCHEMES:
        raise ValueError(f"{FORM}: {scheme}:// is not spoken here, but nats:// and tls://")
    try:
        parts = urlsplit(url if there else f"nats://{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(
            f"{FORM}: the port must be a number from 1 to 65535, or the address is broken"
        ) from None
    if port == 0:
        raise ValueError(f"{FORM}: the port must be a number from 1 to 65535")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{FORM}: the host is missing or has characters that no host has")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            f"{FORM}: after the port there must be nothing (a password with / ? # goes elsewhere)"
        )
