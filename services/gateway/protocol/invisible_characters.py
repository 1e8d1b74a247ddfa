"""Detect invisible characters in user ids, and those that change the direction of text."""

import re

_INVISIBLE = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_EMOJI = "[\u2190-\u2bff\U0001f000-\U0001faff]"
_JOINER = re.compile(f"(?:(?<={_EMOJI})|(?<={_EMOJI}\ufe0f))\u200d(?={_EMOJI})")


def has_invisible(user: str) -> bool:
    """Return True for a bidirectional control or zero-width character; a joiner between two emoji is none."""
    return _INVISIBLE.search(_JOINER.sub("", user)) is not None
