"""A mailbox that cannot be read at once."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.gateway.clients.registry import Socket
from services.gateway.relay.receive_order import ReceiveOrder
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.resume import MARGIN_MS, ResumingSession, ResumingSessions
from shared.contracts.relays import stamp
from shared.errors import Unavailable
from shared.messaging import mailbox
from shared.messaging.mailbox import MailboxMessage, MailboxReach
from shared.nats.backoff import Backoff
from shared.nats.connection import Bus


@pytest.fixture(autouse=True)
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mailboxes are made up here: nothing is put at their ends."""
    monkeypatch.setattr(mailbox, "settle", lambda *_: None)


async def _nobody_knows(_session: str, _seq: int) -> None:
    return None


async def _nothing_was_heard(_session: str, _seq: int) -> dict[str, int]:
    return {}


def _covers(whether: bool) -> Any:
    async def covers(*_: Any) -> bool:
        return whether

    return covers


@pytest.mark.parametrize("failures", [0, 3, None])
async def test_reading_a_mailbox_is_retried(monkeypatch: pytest.MonkeyPatch, failures: int | None) -> None:
    letters = [MailboxMessage("call:ended", b'{"callId":"c","seq":%d}' % seq) for seq in (1_000, 2_000)]
    tries = 0

    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        nonlocal tries
        tries += 1
        if failures is None or tries <= failures:
            raise Unavailable
        return letters

    monkeypatch.setattr(mailbox, "read", read)
    here = ResumingSession("s", direct=True)
    resuming = ResumingSessions(
        cast(Bus, None),
        _nobody_knows,
        read_backoff=Backoff(first=0.01, longest=0.01, jitter=1.0),
        patience=0.2,
    )
    monkeypatch.setattr(MailboxReach, "covers", _covers(True))
    if failures is None:
        with pytest.raises(Unavailable):
            await resuming.read_missed(here, last_seq=1_000, lost_at=None, since=0)
        assert tries > 3
        missed = await resuming.read_missed(here, last_seq=None, lost_at=5, since=0)
        assert (missed.missed, missed.complete) == ([], False), "it would not know anyway"
        return
    missed = await resuming.read_missed(here, last_seq=1_000, lost_at=None, since=0)
    assert (missed.missed, missed.complete) == (letters[1:], True)
    assert tries == failures + 1


@pytest.mark.parametrize("reaches", [True, False])
async def test_redelivered_messages_do_not_make_a_new_mailbox_complete(
    monkeypatch: pytest.MonkeyPatch, *, reaches: bool
) -> None:
    """After NATS has forgotten everything, a turn of before is there again, behind what came since."""
    since, again = (
        MailboxMessage("ice:candidate", b'{"candidate":{},"seq":2000}'),
        MailboxMessage("call:accepted", b'{"seq":1000}'),
    )
    newer = MailboxMessage("call:ended", b'{"callId":"c","seq":3000}')

    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        return [since, again, newer] if not reaches else [again, since, newer]

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(MailboxReach, "covers", _covers(reaches))
    look = ResumingSessions(cast(Bus, None), _nobody_knows).read_missed(
        ResumingSession("s", direct=True), last_seq=1_000, lost_at=None, since=0
    )
    missed = await look
    assert (missed.missed, missed.complete) == ([since, newer], reaches)
    assert missed.before == ([again] if reaches else []), "what is not known to be heard is told anew"
    assert missed.redelivered_upto == (0 if reaches else 1_000)


def test_redelivered_call_events_are_not_sent_again() -> None:
    sent: list[bytes] = []

    class Sending:
        def send_ringing(self, _connection: str, _event: str, payload: bytes) -> None:
            sent.append(payload)

    outbound = Delivery(
        "gw",
        *cast(
            Any,
            (
                None,
                SimpleNamespace(registry=None, server=SimpleNamespace(sender=Sending())),
                None,
                ReceiveOrder(),
            ),
        ),
    )
    socket = Socket("sid", "eio", session="s", redelivered_upto=1_000, caught_up=False)
    old, new = b'{"callId":"c","seq":1000}', b'{"callId":"c","seq":2000}'
    for letter in (old, new):
        outbound._write(socket, "call:incoming", letter, "")
    assert sent == [new]


async def test_redelivered_call_events_are_not_sent_after_a_complete_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Call control tells turns of the last 30 s again; a resume reads back ten seconds only."""
    last = 60_000_000

    heard, missed_ = (
        MailboxMessage("call:ended", b'{"callId":"c","seq":%d}' % seq) for seq in (last, last + 9)
    )
    again = MailboxMessage("call:ended", b'{"callId":"b","seq":%d}' % (last - 20_000_000))

    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        return [heard, again, missed_]

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(MailboxReach, "covers", _covers(True))
    look = ResumingSessions(cast(Bus, None), _nobody_knows).read_missed
    missed = await look(ResumingSession("s", direct=True), last_seq=last, lost_at=None, since=0)
    assert (missed.missed, missed.complete) == ([missed_], True), "told again while the client was away"
    assert last - MARGIN_MS * 1000 <= missed.redelivered_upto < last, "clocks of callcores may differ"


async def test_a_mailbox_newer_than_the_client_brings_no_call_event_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NATS lost the mailbox 6 s before the client's last letter; call control tells the turns of that time again."""
    last, made_ms = 60_000_000, 54_000
    heard = MailboxMessage("call:ended", b'{"callId":"c","seq":%d}' % last)
    again = MailboxMessage("call:ended", b'{"callId":"b","seq":%d}' % (last - 5_500_000))
    missed_ = MailboxMessage("call:ended", b'{"callId":"d","seq":%d}' % (last + 9))

    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        return [heard, again, missed_]

    async def covers(_: Any, since_ms: int) -> bool:
        return since_ms >= made_ms

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(MailboxReach, "covers", covers)
    missed = await ResumingSessions(cast(Bus, None), _nothing_was_heard).read_missed(
        ResumingSession("s", direct=True), last_seq=last, lost_at=None, since=0
    )
    assert (missed.missed, missed.complete) == ([missed_], True)
    assert missed.redelivered_upto >= last - 2_000_000, "and none that is told live"


def _relay(number: int, seq: int) -> MailboxMessage:
    return MailboxMessage("ice:candidate", b'%b,"seq":%d}' % (stamp(b'{"n":1}', "s", number)[:-1], seq))


class _Asked:
    """A gateway that knows what a client has heard, if it knows."""

    def __init__(self, heard: dict[str, int] | None) -> None:
        self._heard = heard
        self.questions: list[tuple[str, int]] = []

    async def __call__(self, session: str, seq: int) -> dict[str, int] | None:
        self.questions.append((session, seq))
        return self._heard


@pytest.mark.parametrize(
    ("made_ms", "heard", "letters", "busy", "complete", "asked"),
    [
        (10_000, None, [], True, True, False),
        (54_000, {"s": 5}, [], True, True, True),
        (54_000, None, [], True, False, True),
        (54_000, None, [_relay(5, 59_000_000)], True, True, True),
        (54_000, None, [], False, True, False),
        (61_000, {"s": 5}, [], True, False, True),
        (61_000, None, [], True, False, True),
    ],
    ids=[
        "the mailbox reaches back",
        "a gateway knows",
        "no gateway knows",
        "no gateway knows but the mailbox shows",
        "no call",
        "a gateway knows but the mailbox is lost",
        "no gateway knows and the mailbox is lost",
    ],
)
async def test_a_resume_is_incomplete_if_received_relays_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
    made_ms: int,
    heard: dict[str, int] | None,
    letters: list[MailboxMessage],
    *,
    busy: bool,
    complete: bool,
    asked: bool,
) -> None:
    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        return letters

    async def covers(_: Any, since_ms: int) -> bool:
        return since_ms >= made_ms

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(MailboxReach, "covers", covers)
    gateways = _Asked(heard)
    missed = await ResumingSessions(cast(Bus, None), gateways).read_missed(
        ResumingSession("s", direct=True), last_seq=60_000_000, lost_at=None, since=0, busy=busy
    )
    assert missed.complete is complete
    assert missed.received == (heard if asked else None)
    assert gateways.questions == ([("s", 60_000_000)] if asked else [])


async def test_a_retransmitted_relay_is_missed_before_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Call control was cut off: 6 and 7 got lost, 8 came, then all of them came again."""
    turn = MailboxMessage("call:accepted", b'{"callId":"c","seq":5500}')
    letters = [_relay(5, 5_000), _relay(8, 5_300), turn, _relay(6, 6_000), _relay(7, 6_001), _relay(8, 6_002)]

    async def read(*_: Any, **__: Any) -> list[MailboxMessage]:
        return letters

    monkeypatch.setattr(mailbox, "read", read)
    monkeypatch.setattr(MailboxReach, "covers", _covers(True))
    missed = await ResumingSessions(cast(Bus, None), _nobody_knows).read_missed(
        ResumingSession("s", direct=True), last_seq=5_000, lost_at=None, since=0
    )
    assert missed.complete and missed.missed == [letters[3], turn, letters[4], letters[1]]
