"""The state machine of a send window by itself: each transition in each state, and those that are forbidden."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from services.gateway.relay import send_window
from services.gateway.relay.send_window import (
    AGAIN_SECONDS,
    ATTEMPTS,
    KEEP_SECONDS,
    RESEND_SECONDS,
    WINDOW,
    Freed,
    InvalidTransition,
    OutstandingRelay,
    SendWindow,
    WindowState,
)
from shared.subjects import FOLLOWS, REDELIVER, STARTS, WANTS_RECEIPT

CANDIDATE = "ice:candidate"
IDLE, IN_FLIGHT, RETRANSMIT = WindowState
RELAY_FOLDER = Path(send_window.__file__).parent


def add(
    window: SendWindow, now: float = 0.0, *, wants_receipt: bool = False, payload: bytes = b"{}"
) -> OutstandingRelay:
    return window.added("ann", "bob", CANDIDATE, payload, wants_receipt, now)[0]


def send(window: SendWindow, now: float = 0.0, *, wants_receipt: bool = False) -> int:
    """Add a relay and publish it; return its flags."""
    relay, flags = window.added("ann", "bob", CANDIDATE, b"{}", wants_receipt, now)
    assert flags is not None
    assert window.sent(relay) == ("cc-1", window.attempt)
    return flags


def retransmit(window: SendWindow, now: float) -> list[tuple[int, int]]:
    """Publish all outstanding relays; return their numbers and flags."""
    relays = window.retransmission_begun(now)
    for relay, _ in relays:
        window.sent(relay)
    return [(relay.number, flags) for relay, flags in relays]


def outstanding(window: SendWindow) -> list[int]:
    return [relay.number for relay in window.relays if not window.is_acknowledged(relay.number)]


@pytest.fixture
def window() -> SendWindow:
    """A window with the owner cc-1, whose first relay is 101."""
    window = SendWindow("s", "c", 101, 0.0)
    window.owner_changed("cc-1", 1)
    return window


def in_state(state: WindowState, *, empty: bool = False) -> SendWindow:
    """A window with relays 101 to 103 (``empty``: with none), of which the last two are outstanding unless idle."""
    window = SendWindow("s", "c", 101, 0.0)
    window.owner_changed("cc-1", 1)
    if not empty:
        for _ in range(3):
            send(window)
        window.acknowledged(103 if state is IDLE else 101, 0, 0.0)
    if state is RETRANSMIT:
        window.owner_lost()
    assert window.state is state
    return window


Transition = Callable[[SendWindow], object]

FORBIDDEN = None

TABLE: dict[str, tuple[Transition, WindowState | None, WindowState | None, WindowState | None]] = {
    # transition: (itself, state after it from IDLE, from IN_FLIGHT, from RETRANSMIT)
    "added": (add, IN_FLIGHT, IN_FLIGHT, RETRANSMIT),
    "sent": (lambda window: window.sent(window.relays[-1]), FORBIDDEN, IN_FLIGHT, FORBIDDEN),
    "send_failed": (lambda window: window.send_failed(window.relays[-1]), RETRANSMIT, RETRANSMIT, RETRANSMIT),
    "retransmission_begun": (lambda window: window.retransmission_begun(1.0), IDLE, IN_FLIGHT, IN_FLIGHT),
    "acknowledged": (lambda window: window.acknowledged(103, 0, 1.0), IDLE, IDLE, RETRANSMIT),
    "acknowledged partly": (lambda window: window.acknowledged(102, 0, 1.0), IDLE, IN_FLIGHT, RETRANSMIT),
    "acknowledged, earlier attempt": (
        lambda window: window.acknowledged(103, 9, 1.0),
        IDLE,
        IN_FLIGHT,
        RETRANSMIT,
    ),
    "refused": (lambda window: window.refused(103, 0, call_over=False), IDLE, IN_FLIGHT, RETRANSMIT),
    "refused, unknown": (lambda window: window.refused(999, 0, call_over=False), IDLE, IN_FLIGHT, RETRANSMIT),
    "withdrawn": (lambda window: window.withdrawn(window.relays[-1]), FORBIDDEN, IN_FLIGHT, RETRANSMIT),
    "gap_reported": (lambda window: window.gap_reported(), IDLE, IN_FLIGHT, RETRANSMIT),
    "loss_suspected": (lambda window: window.loss_suspected(), RETRANSMIT, RETRANSMIT, RETRANSMIT),
    "owner_changed, same": (lambda window: window.owner_changed("cc-1", 2), IDLE, IN_FLIGHT, RETRANSMIT),
    "owner_changed, other": (lambda window: window.owner_changed("cc-2", 2), IDLE, RETRANSMIT, RETRANSMIT),
    "owner_changed, none": (lambda window: window.owner_changed(None, 2), RETRANSMIT, RETRANSMIT, RETRANSMIT),
    "owner_lost": (lambda window: window.owner_lost(), RETRANSMIT, RETRANSMIT, RETRANSMIT),
    "session_moved": (lambda window: window.session_moved(), IDLE, IN_FLIGHT, RETRANSMIT),
    "timer_fired, early": (
        lambda window: window.timer_fired(RESEND_SECONDS - 0.1),
        IDLE,
        IN_FLIGHT,
        RETRANSMIT,
    ),
    "timer_fired, late": (lambda window: window.timer_fired(RESEND_SECONDS), IDLE, RETRANSMIT, RETRANSMIT),
    "expired": (lambda window: window.expired(0.1), IDLE, IDLE, RETRANSMIT),
    "expired, none old": (lambda window: window.expired(0.0), IDLE, IN_FLIGHT, RETRANSMIT),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("column", range(3), ids=[state.name for state in WindowState])
def test_each_transition_in_each_state(name: str, column: int) -> None:
    transition, *after = TABLE[name]
    before = list(WindowState)[column]
    window = in_state(before)
    if after[column] is FORBIDDEN:
        with pytest.raises(InvalidTransition):
            transition(window)
        assert window.state is before, "a forbidden transition changes nothing"
    else:
        transition(window)
        assert window.state is after[column]


def test_the_table_has_every_transition() -> None:
    names = {name.partition(",")[0].partition(" ")[0] for name in TABLE} | {"renumbered"}
    documented = {
        line.split("``")[1] for line in (send_window.__doc__ or "").split("\n") if line.startswith("``")
    }
    assert names == documented
    assert all(callable(getattr(SendWindow, name)) for name in names)


def test_nothing_is_sent_without_an_owner() -> None:
    window = SendWindow("s", "c", 101, 0.0)
    relay = add(window)
    for forbidden in (
        lambda: window.sent(relay),
        lambda: window.retransmission_begun(0.0),
        window.owner_lost,
    ):
        with pytest.raises(InvalidTransition):
            forbidden()
    window.owner_changed(None, 1)
    with pytest.raises(InvalidTransition):
        window.retransmission_begun(0.0)
    window.owner_changed("cc-1", 2)
    assert window.state is RETRANSMIT and retransmit(window, 0.0) == [(101, STARTS)]


def test_a_relay_that_is_not_outstanding_is_not_sent(window: SendWindow) -> None:
    send(window)
    stranger = OutstandingRelay(102, CANDIDATE, "tail", b"{}", False, 0.0)
    with pytest.raises(InvalidTransition):
        window.sent(stranger)
    window.acknowledged(101, 0, 0.0)
    with pytest.raises(InvalidTransition):
        window.sent(window.relays[0])


def test_numbers_start_anew_only_above_the_last_and_after_a_move(window: SendWindow) -> None:
    send(window)
    with pytest.raises(InvalidTransition):
        window.renumbered(500)
    window.session_moved()
    assert window.has_moved
    with pytest.raises(InvalidTransition):
        window.renumbered(101)
    window.renumbered(400)
    window.renumbered(500)
    assert send(window) == STARTS and window.last_number == 500 and not window.has_moved
    assert send(window) == FOLLOWS and window.last_number == 501


def test_a_window_without_relays_suspects_no_loss() -> None:
    window = in_state(IDLE, empty=True)
    window.loss_suspected()
    assert window.state is IDLE


def test_acknowledgements_count_up_to_a_number(window: SendWindow) -> None:
    for _ in range(5):
        send(window)
    window.acknowledged(103, 0, 1.0)
    assert window.has_outstanding and outstanding(window) == [104, 105] and window.unacknowledged == 2
    window.acknowledged(102, 0, 1.0)
    assert outstanding(window) == [104, 105]
    window.acknowledged(9_999, 0, 1.0)
    assert not window.has_outstanding and window.is_acknowledged(105) and not window.is_acknowledged(106)


def test_an_acknowledgement_of_an_earlier_attempt_does_not_count(window: SendWindow) -> None:
    send(window)
    retransmit(window, 1.0)
    window.acknowledged(101, 0, 1.0)
    assert window.has_outstanding
    window.acknowledged(101, 1, 1.0)
    assert not window.has_outstanding


def test_an_acknowledgement_does_not_count_before_suspected_relays_were_retransmitted(
    window: SendWindow,
) -> None:
    send(window)
    window.loss_suspected()
    window.acknowledged(101, 0, 1.0)
    assert window.has_outstanding and window.needs_retransmission


def test_attempts_are_one_digit(window: SendWindow) -> None:
    send(window)
    attempts = []
    for _ in range(ATTEMPTS):
        retransmit(window, 1.0)
        attempts.append(window.attempt)
    assert attempts == [*range(1, ATTEMPTS), 0]


def test_flags(window: SendWindow) -> None:
    first = add(window)
    window.sent(first)
    assert send(window, wants_receipt=True) == FOLLOWS | WANTS_RECEIPT
    window.withdrawn(first)
    assert retransmit(window, 1.0) == [(101, STARTS), (102, FOLLOWS | STARTS | WANTS_RECEIPT)], (
        "the receiver gets no 101 to wait for"
    )
    window.loss_suspected()
    assert retransmit(window, 1.0)[1] == (102, FOLLOWS | STARTS | REDELIVER | WANTS_RECEIPT)
    assert send(window) == FOLLOWS, "its delivery is not suspected to be lost"


def test_flags_of_new_relays(window: SendWindow) -> None:
    assert [send(window), send(window)] == [STARTS, FOLLOWS]
    window.session_moved()
    assert [send(window), send(window)] == [STARTS, FOLLOWS]
    window.acknowledged(window.last_number, 0, 0.0)
    assert send(window) == 0, "the relay before it is acknowledged, and kept yet"
    window.withdrawn(window.relays[-1])
    assert send(window) == FOLLOWS | STARTS


def test_a_relay_behind_one_that_is_kept_does_not_start(window: SendWindow) -> None:
    send(window)
    send(window)
    window.acknowledged(101, 0, 0.0)
    assert retransmit(window, 0.0) == [(102, 0)]
    assert [window.forget_settled(now).relays for now in (0.0, KEEP_SECONDS, 2 * KEEP_SECONDS)] == [0, 0, 1]
    assert retransmit(window, 0.0) == [(102, STARTS)]


def test_a_new_relay_has_no_flags_while_older_ones_must_be_retransmitted(window: SendWindow) -> None:
    send(window)
    window.owner_lost()
    relay, flags = window.added("ann", "bob", CANDIDATE, b"{}", False, 0.0)
    assert flags is None
    with pytest.raises(InvalidTransition):
        window.sent(relay)
    assert retransmit(window, 0.0) == [(101, STARTS), (102, FOLLOWS)]


def test_a_suspected_loss_brings_back_all_that_is_kept(window: SendWindow) -> None:
    for _ in range(3):
        send(window)
    window.acknowledged(103, 0, 0.0)
    assert window.forget_settled(KEEP_SECONDS - 0.1) == Freed(0, 0)
    window.loss_suspected()
    assert outstanding(window) == [101, 102, 103] and window.needs_retransmission
    assert window.was_acknowledged(103) and not window.was_acknowledged(104)
    assert not window.is_acknowledged(103)


def test_retransmission_is_due_when_no_acknowledgement_comes(window: SendWindow) -> None:
    send(window, 5.0)
    assert window.timer_fired(5.0 + RESEND_SECONDS - 0.1) is None and not window.needs_retransmission
    window.timer_fired(5.0 + RESEND_SECONDS)
    assert window.needs_retransmission
    retransmit(window, 7.0)
    window.timer_fired(7.0 + RESEND_SECONDS - 0.1)
    assert not window.needs_retransmission
    window.acknowledged(101, 1, 7.0)
    window.timer_fired(99.0)
    assert not window.needs_retransmission


def test_retransmission_is_due_after_a_gap_but_not_all_the_time(window: SendWindow) -> None:
    send(window)
    retransmit(window, 1.0)
    window.gap_reported()
    window.timer_fired(1.0 + AGAIN_SECONDS / 2)
    assert not window.needs_retransmission
    window.timer_fired(1.0 + AGAIN_SECONDS)
    assert window.needs_retransmission


@pytest.mark.parametrize("gap", [True, False])
def test_only_silence_makes_a_retransmission_a_probe(window: SendWindow, gap: bool) -> None:
    send(window)
    if gap:
        window.gap_reported()
    assert window.timer_fired(RESEND_SECONDS) is None
    retransmit(window, RESEND_SECONDS)
    late = RESEND_SECONDS + AGAIN_SECONDS
    assert window.timer_fired(late) is None
    assert window.timer_fired(late + 0.1) == (None if gap else RESEND_SECONDS)
    assert window.timer_fired(late + 0.2) is None, "reported once"


def test_an_acknowledgement_answers_a_probe(window: SendWindow) -> None:
    send(window)
    send(window)
    window.timer_fired(RESEND_SECONDS)
    retransmit(window, RESEND_SECONDS)
    window.acknowledged(101, 1, RESEND_SECONDS)
    assert window.timer_fired(RESEND_SECONDS + AGAIN_SECONDS + 0.1) is None


def test_a_refusal_voids_a_relay_and_is_news_once(window: SendWindow) -> None:
    send(window)
    size = len(window.relays[0].payload)
    assert window.refused(101, 0, call_over=False) == (True, size)
    assert window.refused(101, 0, call_over=False) == (False, 0)
    assert window.relays[0].payload == b"" and not window.has_undelivered()


@pytest.mark.parametrize(
    ("attempt", "call_over", "unknown"), [(0, True, True), (1, True, False), (1, False, True)]
)
def test_a_call_that_is_over_does_not_refuse_a_relay_that_may_have_been_passed_on(
    window: SendWindow, attempt: int, call_over: bool, unknown: bool
) -> None:
    send(window)
    retransmit(window, 1.0)
    assert window.refused(101, attempt, call_over=call_over)[0] is unknown


def test_a_relay_that_was_acknowledged_is_not_refused_to_its_client(window: SendWindow) -> None:
    send(window)
    window.acknowledged(101, 0, 0.0)
    window.loss_suspected()
    retransmit(window, 1.0)
    assert window.refused(101, 1, call_over=False)[0] is False


def test_a_relay_that_could_not_be_published_was_not_sent(window: SendWindow) -> None:
    relay = add(window)
    window.sent(relay)
    window.send_failed(relay)
    assert relay.first_attempt == -1
    retransmit(window, 1.0)
    assert relay.first_attempt == 1
    assert window.refused(101, 1, call_over=True)[0], (
        "it was published once, so nobody has passed it on before"
    )


def test_a_relay_that_could_not_be_published_again_was_sent_before(window: SendWindow) -> None:
    relay = add(window)
    window.sent(relay)
    window.sent(window.retransmission_begun(1.0)[0][0])
    window.send_failed(relay)
    assert relay.first_attempt == 0


def test_relays_expire_with_their_payloads(window: SendWindow) -> None:
    old, void, young = add(window, 0.0), add(window, 0.0), add(window, 5.0)
    sizes = [len(relay.payload) for relay in (old, void)]
    assert window.withdrawn(void) == sizes[1]
    assert window.expired(0.0) == ([], Freed(0, 0))
    assert window.expired(1.0) == ([old], Freed(2, sizes[0])), "the client of the void one knows"
    assert outstanding(window) == [young.number] and window.relays == (young,)


def test_what_is_acknowledged_does_not_expire(window: SendWindow) -> None:
    send(window)
    window.acknowledged(101, 0, 1.0)
    assert window.expired(99.0) == ([], Freed(0, 0)) and window.holds(101)
    assert window.forget_acknowledged().relays == 1 and window.is_empty and not window.holds(101)


def test_a_full_window_takes_no_relay_at_once(window: SendWindow) -> None:
    for _ in range(WINDOW - 1):
        send(window)
    assert window.takes_at_once(1) and not window.takes_at_once(2)
    send(window)
    assert not window.takes_at_once(1) and window.count_outstanding() == WINDOW


def test_the_tail_of_a_subject_is_made_once_for_each_receiver_and_event(
    window: SendWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = window.added("u", "b.ob", "call:offer", b"{}", False, 0.0)[0]
    assert relay.tail == "c.u.s.b=2Eob.call:offer"
    assert window.added("u", "b.ob", "call:offer", b"{}", False, 0.0)[0].tail is relay.tail
    for n in range(3 * send_window._TAILS_MAX):
        assert window.added("u", f"p{n}", "call:offer", b"{}", False, 0.0)[0].tail == f"c.u.s.p{n}.call:offer"
        assert len(window._tails) <= send_window._TAILS_MAX


def test_no_other_module_writes_a_field_of_a_window_or_of_its_relays() -> None:
    """Attributes are assigned only of ``self``, but for the counter of the socket, which is not a window's."""
    foreign = []
    for path in sorted(RELAY_FOLDER.glob("*.py")):
        if path.name == "send_window.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Attribute) and not (
                    isinstance(target.value, ast.Name) and target.value.id == "self"
                ):
                    foreign.append((path.name, ast.unparse(target)))
    assert {name for _, name in foreign} <= {
        "request.socket.acks_pending", "pending.request.socket.acks_pending", "socket.seq",
    }, foreign  # fmt: skip
    private = {slot for slot in SendWindow.__slots__ if slot.startswith("_")}
    for path in RELAY_FOLDER.glob("*.py"):
        if path.name != "send_window.py":
            read = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
                and not (isinstance(node.value, ast.Name) and node.value.id == "self")
            }
            assert not read & private, path.name
