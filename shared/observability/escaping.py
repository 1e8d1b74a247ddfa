"""Text that others have written, for a terminal."""


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal might act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
