"""Make the payloads of the clients: a candidate and a session description of the usual sizes."""

from typing import Any

CANDIDATE_BYTES = 150
SDP_BYTES = 4096
MARK = b"ufrag m"
"""Precedes the six digits that distinguish candidates."""

_CANDIDATE = (
    "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.17 rport 46154 "
    "generation 0 ufrag m{number:06d} network-cost 999"
)
_LINE = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 nack pli\r\na=fmtp:97 apt=96\r\n"


def candidate(number: int = 0) -> dict[str, Any]:
    """Return a candidate with :data:`CANDIDATE_BYTES` in its ``candidate`` line."""
    line = _CANDIDATE.format(number=number)
    return {"candidate": line.ljust(CANDIDATE_BYTES), "sdpMid": "0", "sdpMLineIndex": 0}


def number_of(data: bytes) -> int:
    """Return the number of the candidate in a frame."""
    at = data.index(MARK) + len(MARK)
    return int(data[at : at + 6])


def description(kind: str) -> dict[str, Any]:
    """Return an ``offer`` or ``answer`` of :data:`SDP_BYTES`."""
    sdp = "v=0\r\no=- 46117317 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n" + _LINE * (SDP_BYTES // len(_LINE) + 1)
    return {"type": kind, "sdp": sdp[:SDP_BYTES]}
