"""Group what a gateway sends requests to presence and callcore with."""

from dataclasses import dataclass

from services.gateway.sessions.background_retry import BackgroundRetrier
from shared.messaging.rpc import RpcClient


@dataclass(frozen=True, slots=True)
class Backend:
    """Groups the client of presence and callcore, and the retrier of requests for which no client waits.

    ``instance``: the name of this gateway in requests, and in addresses of sessions.
    """

    instance: str
    rpc: RpcClient
    retrier: BackgroundRetrier
