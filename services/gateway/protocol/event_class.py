"""Group client events into classes that share a rate limit."""

from enum import IntEnum

from shared.contracts.client import Event


class EventClass(IntEnum):
    """Events that share a rate limit; the number is an index into lists of limits."""

    OTHERS = 0
    CANDIDATES = 1
    OFFERS = 2
    INITIATES = 3
    STATUS = 4


_CLASSES = {
    Event.CANDIDATE.value: EventClass.CANDIDATES,
    Event.OFFER.value: EventClass.OFFERS,
    Event.ANSWER.value: EventClass.OFFERS,
    Event.INITIATE.value: EventClass.INITIATES,
    Event.STATUS.value: EventClass.STATUS,
}


def class_of(event: str) -> EventClass:
    """Return the class of an event; ``OTHERS`` for an unknown one."""
    return _CLASSES.get(event, EventClass.OTHERS)
