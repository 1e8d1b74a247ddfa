"""An event loop that runs only when it is told to, and a bucket whose operations the explorer performs one by one."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

from shared.nats.kv import Conflict, Entry
from tests.support.gated_bucket import Gate, GatedBucket

ACTOR: ContextVar[str] = ContextVar("actor")
"""The actor whose code runs; tasks inherit it."""


class SteppedLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in :meth:`settle` until none is ready. It has no clock: waiting for time to pass is an error."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()

    def settle(self) -> None:
        """Run everything that can run before another operation is performed."""
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, **kwargs)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Ignore what asyncio complains about when a world is thrown away in the middle."""


class Operation:
    """One operation on a bucket that an actor waits for. ``id``: the same in every schedule that leads to it."""

    __slots__ = ("_do", "actor", "bucket", "future", "id", "key", "writes")

    def __init__(
        self, actor: str, id_: str, bucket: "SteppedBucket", key: str, do: Callable[[], Any], *, writes: bool
    ) -> None:
        self.actor = actor
        self.id = id_
        self.bucket = bucket
        self.key = key
        self.writes = writes
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._do = do

    def perform(self) -> tuple[Any, BaseException | None]:
        """Perform it on the stored entries; what the actor is to be told, which it does not hear yet."""
        try:
            return self._do(), None
        except Conflict as error:
            return None, error

    def hear(self, outcome: tuple[Any, BaseException | None]) -> None:
        """Have the actor hear the outcome."""
        if not self.future.done():
            result, error = outcome
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
                self.future.exception()  # an actor that was cancelled does not await it


class SteppedBucket(GatedBucket):
    """The gated bucket, with operations that are handed to ``begun`` instead of waiting at a gate.

    Revisions count the writes of one key, so they do not depend on the order of writes to other keys. Services
    compare revisions of one key only, so to them this makes no difference.
    """

    def __init__(
        self,
        name: str,
        begun: Callable[[Operation], None],
        on_write: Callable[[str, Entry, bytes | None], None] | None,
        lost_race: Callable[[int], Any],
    ) -> None:
        super().__init__(Gate(), name, on_write)
        self.name = name
        self._on_begun = begun
        self._issued: Counter[tuple[str, str]] = Counter()
        self.lost_race = lost_race
        self._rounds: dict[str, str] = {}

    def begin_anew(self, actor: str, round_: int) -> None:
        """The actor begins its next round: its operations are counted anew."""
        self._rounds[actor] = f"round {round_}, "

    def _begun(self, what: str, do: Callable[[], Any]) -> "asyncio.Future[Any]":
        verb, _, key = what.partition(" ")
        actor = ACTOR.get()
        name = f"{self._rounds.get(actor, '')}{self.name} {what}"
        self._issued[actor, name] += 1
        operation = Operation(
            actor,
            f"{actor}: {name} #{self._issued[actor, name]}",
            self,
            key,
            do,
            writes=verb not in ("get", "keys"),
        )
        self._on_begun(operation)
        return operation.future

    def _next_revision(self, before: Entry) -> int:
        return before.revision + 1
