"""Whether what clients saw is what is promised (docs/reliability.md). Knows nothing of the services. Pure.

A client that was told ``resumed: false`` may have missed something: of the calls that it knew then, only what cannot
have got lost is asked of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.chaos.history import Record

TERMINAL = ("call:ended", "call:rejected")
RELAY = "ice:candidate"
_TURNS = ("call:incoming", "call:initiated", "call:accepted", *TERMINAL)


def check(history: Sequence[Record]) -> list[str]:
    """Everything in ``history`` that breaks a promise, a line each."""
    lost = _lost(history)
    return [
        *_check_ends(history, lost),
        *_check_acceptances(history, lost),
        *_check_relays(history, lost),
        *_check_sequence(history),
        *_check_status(history),
    ]


def _lost(history: Iterable[Record]) -> set[tuple[str, str]]:
    """(user, call) of calls of which a user may have missed something."""
    known: dict[str, set[str]] = defaultdict(set)
    lost: set[tuple[str, str]] = set()
    missing: set[str] = set()
    for record in history:
        if record.call:
            known[record.user].add(record.call)
        if record.what == "joined" and record.resumed is False:
            lost |= {(record.user, call) for call in known[record.user]}
            missing.add(record.user)
    # A call that a user never heard of, because it was placed while the user was away and did not resume.
    parties = _parties(history)
    return lost | {
        (user, call) for call, users in parties.items() for user in users & missing if call not in known[user]
    }


def _parties(history: Iterable[Record]) -> dict[str, set[str]]:
    parties: dict[str, set[str]] = defaultdict(set)
    for record in history:
        if record.call:
            parties[record.call].add(record.user)
    return parties


def _check_ends(history: Sequence[Record], lost: set[tuple[str, str]]) -> Iterable[str]:
    """Each party hears one end of each call, the same as the other, and nothing of the call after it."""
    ends: dict[tuple[str, str], list[Record]] = defaultdict(list)
    heard: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in history:
        if record.what != "heard" or not record.call:
            continue
        key = (record.user, record.call)
        if ends[key] and record.event not in (*TERMINAL, "error"):
            yield f"{record.user} heard {record.event} of {record.call} after its end"
        heard[key].add(record.event)
        if record.event in TERMINAL:
            ends[key].append(record)
    for (user, call), events in heard.items():
        count = len(ends[user, call])
        if count > 1:
            yield f"{user} heard {count} ends of {call}"
        if count == 0 and events & set(_TURNS) and (user, call) not in lost:
            yield f"{user} did not hear the end of {call}"
    for call, users in _parties(history).items():
        ways = {(r.event, r.by, r.reason) for user in users for r in ends[user, call]}
        if len(ways) > 1:
            yield f"{call} has different ends: {sorted(ways)}"


def _check_acceptances(history: Sequence[Record], lost: set[tuple[str, str]]) -> Iterable[str]:
    """An acceptance that was answered well was told to both, and each hears at most one."""
    told: dict[tuple[str, str], int] = defaultdict(int)
    for record in history:
        if record.what == "heard" and record.event == "call:accepted":
            told[record.user, record.call] += 1
    for (user, call), count in told.items():
        if count > 1:
            yield f"{user} heard {count} times that {call} was accepted"
    parties = _parties(history)
    for record in history:
        if record.what == "answered" and record.event == "call:accept" and record.ok:
            for user in parties[record.call]:
                if not told[user, record.call] and (user, record.call) not in lost:
                    yield f"{record.call} was accepted, {user} did not hear of it"


def _check_relays(history: Sequence[Record], lost: set[tuple[str, str]]) -> Iterable[str]:
    """What was acknowledged arrives, in the order of the numbers, and no more often than it was sent."""
    asked: dict[tuple[str, str, int], int] = defaultdict(int)
    acknowledged: set[tuple[str, str, int]] = set()
    came: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in history:
        if record.event != RELAY or record.n is None:
            continue
        if record.what == "asked":
            asked[record.user, record.call, record.n] += 1
        elif record.what == "answered" and record.ok:
            acknowledged.add((record.user, record.call, record.n))
        elif record.what == "heard":
            came[record.user, record.call].append(record.n)
    parties = _parties(history)
    for (user, call), numbers in came.items():
        peers = parties[call] - {user}
        first = list(dict.fromkeys(numbers))
        if first != sorted(first):
            yield f"{user} heard relays of {call} out of order: {_around(first)}"
        for n in first:
            sent = sum(asked[peer, call, n] for peer in peers)
            if sent == 0:
                yield f"{user} heard relay {n} of {call}, which nobody sent"
            elif (times := numbers.count(n)) > sent:
                yield f"{user} heard relay {n} of {call} {times} times, sent {sent} times"
    for sender, call, n in sorted(acknowledged):
        for peer in parties[call] - {sender}:
            if n not in came[peer, call] and (peer, call) not in lost:
                yield f"relay {n} of {call} was acknowledged to {sender}, {peer} did not hear it"


def _around(numbers: list[int]) -> list[int]:
    """The place where numbers stop growing."""
    at = next(i for i in range(1, len(numbers)) if numbers[i] < numbers[i - 1])
    return numbers[max(0, at - 3) : at + 3]


def _check_sequence(history: Iterable[Record]) -> Iterable[str]:
    """``seq`` only grows within a session."""
    last: dict[tuple[str, str], int] = defaultdict(int)
    for record in history:
        if record.what == "heard" and record.seq:
            key = (record.user, record.session)
            if record.seq <= last[key]:
                yield f"{record.user} heard {record.event} with seq {record.seq} after {last[key]}"
            last[key] = max(record.seq, last[key])


def _check_status(history: Iterable[Record]) -> Iterable[str]:
    """Nobody is shown in a call when all is over."""
    for record in history:
        if record.what == "status" and record.in_call:
            yield f"{record.user} is in a call after all of them have ended"
