"""Deliver a relay to its targets, or refuse it: early media, byte budgets, receipts."""

import json
import time

from services.callcore.relay.route_cache import CachedCall
from services.callcore.state.model import Address, State
from shared import subjects
from shared.contracts.client import Event
from shared.errors import RateLimited, SignallingError
from shared.messaging.mailbox import MailboxMessage, MailboxPublisher
from shared.nats.connection import Bus
from shared.observability import logs
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import ByteRate, milliseconds

log = logs.get(__name__)

EARLY_MAX = 64
EARLY_MAX_BYTES = 256 * 1024
"""Relays, and their bytes, that are kept of a ringing call."""


class RelayDelivery:
    """Delivers and refuses relays. ``call_bytes``: bytes that one side of a call may send; ``None`` for no limit."""

    def __init__(
        self, bus: Bus, mailbox_publisher: MailboxPublisher, call_bytes: ByteRate | None, hits: LimitHits
    ) -> None:
        self._bus = bus
        self._mailbox_publisher = mailbox_publisher
        self._call_bytes = call_bytes
        self._hits = hits

    def pass_on(
        self,
        cached: CachedCall,
        targets: tuple[Address, ...],
        kind: str,
        reply: str,
        payload: bytes,
        *,
        first: bool,
    ) -> None:
        """Deliver a relay to ``targets``. ``first``: True unless it was delivered before.

        Raises :class:`RateLimited`, :class:`shared.errors.Unavailable`.
        """
        call = cached.call
        early = first and call.state is State.RINGING and targets[0] != call.caller_at
        if early:
            size = len(payload)
            if len(cached.early) >= EARLY_MAX or cached.early_bytes + size > EARLY_MAX_BYTES:
                raise RateLimited("Too much sent before the call is accepted", retry_after_ms=1000)
        if first and (early or kind != Event.CANDIDATE):
            # Candidates of an accepted call arrive in batches; gateways count those, and their bytes.
            self._charge(cached, targets, len(payload))
        reply += subjects.DELIVERY_LETTER
        for at in targets:
            self._mailbox_publisher.deliver(at.gateway, at.session, kind, payload, reply)
        if early:
            cached.early.append(MailboxMessage(kind, payload))
            cached.early_bytes += size

    def catch_up(self, device: Address, early: list[MailboxMessage]) -> None:
        """Deliver early media to a device that begins to ring. Raises :class:`shared.errors.Unavailable`."""
        for message in early:
            self._mailbox_publisher.deliver(device.gateway, device.session, message.event, message.payload)

    def refuse(self, call: str, kind: str, reply: str, error: SignallingError) -> None:
        """Send the error to the sender of a relay. Raises :class:`shared.errors.Unavailable`."""
        log.debug("relay refused", call=call, relayed=kind, code=error.code)
        self._bus.publish(reply, json.dumps({**error.to_wire(), "event": kind}).encode())

    def _charge(self, cached: CachedCall, targets: tuple[Address, ...], size: int) -> None:
        """Charge a relay to the side that sends it, once for each target. Raises :class:`RateLimited`."""
        if (rate := self._call_bytes) is None:
            return
        now, side = time.monotonic(), targets[0] != cached.call.caller_at
        full_at = rate.charge(cached.bytes_full_at[side], now, size * len(targets))
        if (wait := rate.wait(full_at, now)) > 0:
            self._hits.hit("rate_call_kb")
            text = f"Too much in one call: {rate.size // 1024} KiB at once"
            raise RateLimited(text, retry_after_ms=milliseconds(wait))
        cached.bytes_full_at[side] = full_at
