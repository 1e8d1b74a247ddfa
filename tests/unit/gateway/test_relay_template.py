"""The short way against the long way: what it takes, the long way lets through as well, and with the same words."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.gateway.protocol.relay_template import TEMPLATES_MAX, RelayTemplates
from services.gateway.protocol.validation import TooLarge, validate
from shared.contracts.client import RELAYED, Event, Sizes
from tests.support.relay_paths import CALL, event_of, fast_path, slow_path, try_both

LINE = "candidate:1 1 udp 2122260223 192.0.2.1 54321 typ host"
CANDIDATE = {"candidate": LINE, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "Ab3d"}
OFFER = {"type": "offer", "sdp": "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n" + 'a=x:"\\"\t\r\n' * 20}


def frame(event: str, payload: Any) -> bytes:
    """As a Socket.IO client writes it."""
    text = json.dumps([event, payload], ensure_ascii=False, separators=(",", ":"))
    return b"42" + text.encode("utf-8", "surrogatepass")


def taught(raw: bytes) -> RelayTemplates:
    """A socket that has sent this frame the long way."""
    templates = RelayTemplates()
    assert fast_path(templates, raw) is None
    if (read := slow_path(raw)) is not None:
        templates.learn(event_of(raw), read[0])
    return templates


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("ice:candidate", {"from": "ann", "to": "bob", "callId": CALL, "candidate": CANDIDATE}),
        ("ice:candidate", {"candidate": CANDIDATE, "to": "bob", "from": "ann"}),
        ("ice:candidate", {"candidate": None, "to": "bob", "from": "ann", "callId": CALL}),
        ("ice:candidate", {"candidates": [CANDIDATE, None], "to": "bob", "from": "ann", "callId": CALL}),
        ("call:offer", {"from": "ann", "to": "bøb 🙂", "offer": OFFER, "callType": "video"}),
        ("call:offer", {"offer": OFFER, "to": "bob", "from": "ann", "callId": CALL, "room": "mine"}),
        ("call:answer", {"to": "bob", "answer": OFFER, "from": "ann", "callId": CALL}),
    ],
)
def test_what_clients_send_takes_the_fast_path(event: str, payload: dict[str, Any]) -> None:
    raw = frame(event, payload)
    read = slow_path(raw)
    assert read is not None
    assert fast_path(taught(raw), raw) == read[1], "byte for byte"


OTHER = "ABCDEFGHIJKLMNOP-_0123"


@pytest.mark.parametrize(
    ("event", "keys"),
    [
        ("ice:candidate", ("candidate", "from", "to", "callId")),
        ("ice:candidate", ("callId", "from", "candidate", "to")),
        ("call:offer", ("from", "callId", "offer", "callType", "to")),
        ("call:answer", ("to", "answer", "callId", "from")),
    ],
)
def test_what_was_learnt_in_one_call_serves_the_next(event: str, keys: tuple[str, ...]) -> None:
    values = {"candidate": CANDIDATE, "offer": OFFER, "answer": OFFER}
    values |= {"from": "ann", "to": "bob", "callType": "video"}

    def of(call: str) -> bytes:
        return frame(event, {key: values.get(key, call) for key in keys})

    templates = taught(of(CALL))
    for call in (OTHER, CALL, OTHER):
        read = slow_path(of(call))
        assert read is not None and read[0].call_id == call
        assert fast_path(templates, of(call)) == read[1]
    for no_call in (
        "",
        "x",
        OTHER[1:],
        OTHER + "x",
        OTHER[:-1] + ".",
        OTHER[:-1] + '"',
        OTHER[:-1] + "\\",
        OTHER[:-2] + "ø",
    ):
        assert fast_path(templates, of(no_call)) is None, no_call


@given(st.data())
def test_a_frame_that_differs_in_more_than_the_call_is_not_of_another_call(data: st.DataObject) -> None:
    raw = frame("ice:candidate", {"candidate": None, "from": "ann", "callId": CALL, "to": "bob"})
    templates = taught(raw)
    other = bytearray(raw.replace(CALL.encode(), OTHER.encode()))
    at = data.draw(st.integers(0, len(other) - 1))
    if data.draw(st.booleans()):
        other[at] = data.draw(st.integers(32, 126))
    else:
        del other[at]
    taken = fast_path(templates, bytes(other))
    if taken is not None:
        read = slow_path(bytes(other))
        assert read is not None and read[1] == taken
        assert (read[0].from_, read[0].to) == ("ann", "bob")


@pytest.mark.parametrize(
    "body",
    [
        '"text"', "1", "[]", "[[]]", "[{}]", "{", "{}}", '{"a":1.5}', '{"a":1e999}', '{"a":NaN}', '{"a":-}', '{"a":01}',
        '{"a":{}}', '{"a":"\\u0041"}', '{"a":"\\ud800"}', '{"a":"\\x"}', '{"a":"\x01"}', '{"a" :1}', "{a:1}",
        '{"a":}', '{"a":"b","k":}', '{"a":1,"k"}', '{"a":1,,"k":1}',
        '{"a":1,}', '{"a":1}],{"b":2}', '{"candidate":"' + "x" * 2048 + '"}', "true", "",
    ],
)  # fmt: skip
def test_other_bodies_take_the_slow_path(body: str) -> None:
    """Python before 3.11.5 took some of those that break off for whole ones, where groups were possessive."""

    def with_body(body: str) -> bytes:
        return f'42["ice:candidate",{{"from":"ann","to":"bob","candidate":{body}}}]'.encode()

    templates = taught(with_body('{"a":1}'))
    assert fast_path(templates, with_body('{"a":1}')) is not None
    assert fast_path(templates, with_body(body)) is None


_TEXTS = st.one_of(
    st.text(max_size=20).map(
        lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    st.lists(
        st.sampled_from(
            [
                b'"',
                b"\\",
                b"\\r\\n",
                b"\\u0041",
                b"\\ud800",
                b"\\x",
                b"\n",
                b"\xff",
                b"x",
                b",",
                b":",
                b"}",
                b" ",
                b"{}",
            ]
        ),
        max_size=6,
    ).map(lambda parts: b'"%b"' % b"".join(parts)),
    st.sampled_from([b'"', b"", b"1", b"{}", b"null", b'"a","sdp":{}', b'"a","b":NaN', b' "a"', b'"a" ']),
)


@given(_TEXTS, st.sampled_from([b'{"type":"offer","sdp":%b}', b'{"sdp":%b,"type":"answer"}']))
def test_the_text_of_a_description_is_what_the_slow_path_takes(text: bytes, description: bytes) -> None:
    def with_text(text: bytes) -> bytes:
        return b'42["call:offer",{"from":"ann","to":"bob","offer":%b}]' % (description % text)

    templates = taught(with_text(b'"v=0\\r\\n"'))
    assert fast_path(templates, with_text(b'"v=0\\r\\n"')) is not None
    short = fast_path(templates, with_text(text))
    if short is not None:
        read = slow_path(with_text(text))
        assert read is not None and json.loads(short) == json.loads(read[1])


@pytest.mark.parametrize(
    "raw",
    [
        b'42["ice:candidate",{"from":"ann","to":"bob","candidate":{"a":"\xff"}}]',  # no UTF-8
        b'42["ice:candidate",{"from":"ann","to":"bob","candidates":{"a":"b"}}]',
        b'42["call:offer",{"from":"ann","to":"bob","answer":{"a":"b"}}]',
        b'42["call:offer",{"from":"ann","from":"eve","to":"bob","offer":{"a":"b"}}]',
        b'42["call:offer",{"from":"ann","to":"bob","offer":{"a":"b"},"from":"eve"}]',
        b'42["call:offer",{"from":"ann","offer":"x","to":"bob","offer":{"a":"b"}}]',
        b'42["call:offer",{"offer":{"to":"eve"},"from":"ann","to":"bob","offer":{"a":"b"}}]',
        b'42["ice:candidate",{"from":"ann","to":"bob","candidate":{},"candidates":"x"}]',
        b'421["ice:candidate",{"from":"ann","to":"bob","candidate":{"a":"b"}}]',  # wants an acknowledgement
        b'42["ice:candidate", {"from":"ann","to":"bob","candidate":{"a":"b"}}]',
        b'42["ice:candidate",{"from":"ann","to":"bob","candidate":{"a":"b"}},1]',
        b'42["call:end",{"callId":"ann","offer":{"a":"b"}}]',
    ],
)
def test_ambiguous_envelopes_are_not_learnt(raw: bytes) -> None:
    templates = taught(raw)
    assert fast_path(templates, raw) is None


def test_an_envelope_is_known_by_every_byte_of_it() -> None:
    payload = {"from": "ann", "to": "bob", "callId": CALL, "candidate": CANDIDATE}
    templates = taught(frame("ice:candidate", payload))
    for other in ({"from": "eve"}, {"to": "eve"}, {"callId": CALL[:-1] + "."}):
        assert fast_path(templates, frame("ice:candidate", {**payload, **other})) is None
    assert fast_path(templates, frame("ice:candidate", {**payload, "candidate": {}})) is not None


def test_no_more_templates_are_kept_than_a_call_needs() -> None:
    templates = RelayTemplates()
    for n in range(TEMPLATES_MAX * 3):
        raw = frame("ice:candidate", {"from": "ann", "to": f"bob{n}", "candidate": CANDIDATE})
        assert fast_path(templates, raw) is None
        read = slow_path(raw)
        assert read is not None
        templates.learn(RELAYED[2], read[0])
        assert fast_path(templates, raw) is not None
        assert len(templates._known) <= TEMPLATES_MAX


_keys = st.sampled_from(
    ["from", "to", "callId", "callType", "candidate", "candidates", "offer", "answer", "x"]
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["ann", "bob", "video", CALL]),
)
_flat = st.dictionaries(st.text(max_size=8), _scalars, max_size=4)
_bodies = st.one_of(_flat, st.none(), st.lists(st.one_of(_flat, st.none()), max_size=3), _scalars)
_payloads = st.fixed_dictionaries(
    {"from": st.just("ann"), "to": st.just("bob")},
    optional={
        "callId": st.just(CALL),
        "callType": st.sampled_from(["video", "audio", "fax"]),
        "x": st.text(),
    },
)
_BASE = {"from": "ann", "to": "bob"}


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """Relays of all sorts: good, nearly good, and then perhaps with a byte changed."""
    event, key = draw(
        st.sampled_from(
            [("ice:candidate", "candidate"), ("ice:candidate", "candidates"), ("call:offer", "offer"),
             ("call:answer", "answer"), ("call:offer", "candidate")]
        )
    )  # fmt: skip
    fields = list({**draw(_payloads), key: draw(_bodies)}.items())
    raw = bytearray(frame(event, dict(draw(st.permutations(fields)))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw) - 1))
        raw[at : at + draw(st.integers(0, 3))] = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b'"', b"\\", b",", b'":', b"}", b"]", b"\\u", b" ", b"e9"]),
            )
        )
    return bytes(raw)


@given(st.lists(_frames(), min_size=1, max_size=3))
@example([frame("call:offer", {**_BASE, "offer": {"a": "\ud800"}})])
@example([frame("ice:candidate", {**_BASE, "candidate": {"a": 10**20}})])
def test_both_ways_agree(frames: list[bytes]) -> None:
    """Each frame is sent three times, so that the second and the third may take the short way."""
    try_both(frames)


def test_long_envelopes_are_not_learnt() -> None:
    raw = frame("ice:candidate", {"from": "ann", "to": "bob", "candidate": CANDIDATE, "x": "y" * 2048})
    assert slow_path(raw) is not None
    assert fast_path(taught(raw), raw) is None


def test_no_way_takes_more_than_the_settings_say() -> None:
    sizes = Sizes(sdp=1000, candidate=600, metadata=0)
    small, large = ({"candidate": "x" * n} for n in (500, 600))
    raw = frame("ice:candidate", {"candidate": small, **_BASE})
    templates = RelayTemplates(sizes)
    assert fast_path(templates, raw) is None
    read = slow_path(raw)
    assert read is not None
    templates.learn(Event.CANDIDATE, read[0])
    assert fast_path(templates, raw) is not None
    assert fast_path(templates, frame("ice:candidate", {"candidate": large, **_BASE})) is None
    validate(Event.CANDIDATE, [{"candidate": small, **_BASE}], sizes)
    for event, payload in (
        (Event.CANDIDATE, {"candidate": large, **_BASE}),
        (Event.OFFER, {"offer": {"sdp": "x" * 1000}, **_BASE}),
        (Event.INITIATE, {"to": "bob", "callType": "audio", "metadata": 1}),
    ):
        validate(event, [payload])
        with pytest.raises(TooLarge):
            validate(event, [payload], sizes)


@given(st.text(max_size=60), st.integers(0, 20))
def test_what_follows_a_known_envelope_cannot_hide(junk: str, cut: int) -> None:
    """Bodies with JSON's own signs in them, in an template that is known."""
    first = b'42["ice:candidate",{"from":"ann","to":"bob","candidate":{}}]'
    templates = taught(first)
    body = '{"a":"' + junk[:cut] + '","b":' + junk[cut:] + "}"
    raw = b'42["ice:candidate",{"from":"ann","to":"bob","candidate":%b}]' % body.encode(
        "utf-8", "surrogatepass"
    )
    if (short := fast_path(templates, raw)) is not None:
        read = slow_path(raw)
        assert read is not None
        assert json.loads(short) == json.loads(read[1])
