"""Wrap the private parts of asyncio that this program uses; no other module uses them.

A test (tests/unit/shared/test_compat.py) fails with the name of each attribute that an upgrade of Python takes away.
"""

import asyncio
from collections.abc import Callable
from typing import Final

PRIVATE: Final[dict[str, dict[str, str]]] = {
    "StreamReader": {
        "_buffer": "bytes may be handled ahead of the reader only where none wait for it",
        "_waiter": "bytes may be handled ahead of the reader only while it waits",
    },
}
"""Class of asyncio → attribute → why it is used."""


def read_ahead(stream: asyncio.StreamReader, take: Callable[[bytes], bytes]) -> None:
    """Have ``take`` called with bytes as they come from the network, before the task that reads ``stream`` is woken.

    ``take`` returns the bytes that are left for that task. It is called only while the task waits and no bytes wait
    for it, so that nothing overtakes them.
    """
    feed_data = stream.feed_data

    def feed(data: bytes) -> None:
        waiter = stream._waiter  # type: ignore[attr-defined]
        if waiter is not None and not waiter.done() and not stream._buffer:  # type: ignore[attr-defined]
            data = take(data)
        if data:
            feed_data(data)

    stream.feed_data = feed  # type: ignore[method-assign,assignment]
