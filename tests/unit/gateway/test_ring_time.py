"""The time left to ring, in events that tell of it."""

import json

import pytest

from services.gateway.protocol.ring_time import ms_left, with_ms_left
from shared.contracts.client import OUTBOUND, Event, StoredIncoming, StoredInitiated
from shared.contracts.wire import Wire

NOW = 1_795_000_000_000
EVIL = {"expiresAt": 7, "expiresInMs": 8, "x": '"expiresAt":9,'}


@pytest.mark.parametrize(
    ("event", "stored"),
    [
        (Event.INCOMING, StoredIncoming(from_="a", call_type="audio", call_id="c", expires_at=NOW + 5)),
        (
            Event.INCOMING,
            StoredIncoming(from_='"expiresAt":1', call_type="audio", call_id="c", metadata=EVIL, expires_at=NOW + 5),
        ),
        (Event.INITIATED, StoredInitiated(call_id="c", to='"expiresAt":1,', expires_at=NOW + 5)),
    ],
)  # fmt: skip
def test_added_as_it_is_written(event: Event, stored: Wire) -> None:
    payload = b'%b,"seq":17}' % stored.dump()[:-1]
    told = with_ms_left(payload, NOW)
    assert json.loads(told) == json.loads(payload) | {"expiresInMs": 5}
    assert told.endswith(b',"seq":17}'), "seq stays the last key"
    assert OUTBOUND[event].model_validate_json(told).dump()[:-1] + b',"seq":17}' == told


@pytest.mark.parametrize(("expires_at", "left"), [(NOW + 45_000, 45_000), (NOW, 0), (NOW - 1, 0), (0, 0)])
def test_never_negative(expires_at: int, left: int) -> None:
    assert ms_left(expires_at, NOW) == left


def test_an_event_without_a_time_is_unchanged() -> None:
    assert with_ms_left(b'{"callId":"c","seq":1}', NOW) == b'{"callId":"c","seq":1}'
