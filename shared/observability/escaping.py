"""Escape text of clients for a terminal."""


def printable(text: str) -> str:
    """Return ``text`` with each character escaped that a terminal might act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
