"""Which call a turn is about, whatever a client has put into it."""

import pytest

from shared.contracts.client import Accepted, Ended, Rejected, StoredIncoming, StoredInitiated
from shared.contracts.wire import Wire
from shared.messaging.mailbox import call_of

CALL = "abcdefghijklmnopqrstuv"
EVIL = '"callId":"evil"'


@pytest.mark.parametrize(
    "turn",
    [
        StoredInitiated(call_id=CALL, to=EVIL, expires_at=1),
        StoredIncoming(
            from_=EVIL, call_type="audio", call_id=CALL, metadata={"callId": "evil"}, expires_at=1
        ),
        StoredIncoming(from_='a\\"' + EVIL, call_type="audio", call_id=CALL, metadata=[EVIL], expires_at=1),
        Accepted(call_id=CALL, by=EVIL),
        Rejected(call_id=CALL, by=EVIL, reason="busy"),
        Ended(call_id=CALL, by=EVIL, reason="hangup"),
    ],
)
def test_the_call_of_a_turn(turn: Wire) -> None:
    assert call_of(turn.dump()) == CALL
