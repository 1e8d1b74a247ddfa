"""Frames that are nearly those of the corpus."""

import random
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
"""A file is what one client sends: a frame a line."""
FRAME_MAX = 4096
FRAMES_MAX = 4

WORDS = tuple(
    word.encode("utf-8", "surrogatepass")
    for word in (
        '"', "\\", ",", ":", "{", "}", "[", "]", '":', '","', '"}', "}]", "]]", "{}", "[]", "null", "true", "NaN",
        "-Infinity", "1e999", "-0", "01", "1.0", "1e9", "9" * 15, "9" * 16, "9" * 400, "\\u0041", "\\ud800",
        "\\ud83d\\ude42", "\\udfff", "\\/", "\\b", "\\x", "\ud800", "\u2028", "\ufeff", "\x00", "\t", "\x1e", " ",
        "é", "🙂", "42", "420", "43", "451-", "461-", "40", "41", "4", "2probe", "/", "/,", "/admin,", "?",
        '"from":"eve"', '"to":"eve"', '"callId":"x"', '"callType":"fax"', '"candidate":', '"candidates":[', '"offer":',
        '"answer":', '"relay":"s.1"', '"seq":1', '"__proto__":{}', "ice:candidate", "call:offer", "call:answer",
        "user:join", "call:initiate", "user:status", "x" * 130, "[" * 65, '{"a":' * 65,
    )
)  # fmt: skip


def corpus() -> dict[str, list[bytes]]:
    """Name → frames."""
    return {path.name: path.read_bytes().split(b"\n") for path in sorted(CORPUS.iterdir())}


def mutate(seeds: list[list[bytes]], chance: random.Random) -> list[bytes]:
    """Some frames of ``seeds`` with some of their bytes changed."""
    frames = list(chance.choice(seeds))
    if chance.random() < 0.2:
        frames += chance.choice(seeds)
    at = chance.randrange(len(frames))
    if chance.random() < 0.3:
        frames.insert(at, frames[at])  # so that the change comes in an envelope that is known
        at += 1
    raw = bytearray(frames[at])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        _change(raw, seeds, chance)
    frames[at] = bytes(raw[:FRAME_MAX])
    return frames[:FRAMES_MAX]


def _change(raw: bytearray, seeds: list[list[bytes]], chance: random.Random) -> None:
    start = chance.randint(0, len(raw))
    end = min(len(raw), start + chance.choice((0, 0, 1, 1, 2, 4, 8, 32)))
    match chance.randrange(6):
        case 0:
            raw[start:end] = b""
        case 1:
            raw[start:end] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 3)))
        case 2:
            raw[start:start] = raw[start:end] * chance.choice((1, 2, 70))
        case 3:
            other = chance.choice(chance.choice(seeds))
            from_ = chance.randint(0, len(other))
            raw[start:end] = other[from_ : from_ + chance.randint(1, 64)]
        case _:
            raw[start:end] = chance.choice(WORDS)
