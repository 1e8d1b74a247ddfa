"""Reach the subscriptions behind the endpoints of ``nats.micro``."""

from nats.aio.subscription import Subscription
from nats.micro.request import Request
from nats.micro.service import Service


def subscriptions(service: Service) -> list[Subscription]:
    """Return the subscriptions of the endpoints of ``service``, in the order in which they were added."""
    return [endpoint._subscription for endpoint in service._endpoints if endpoint._subscription is not None]


def forget_endpoints(service: Service) -> None:
    """Have ``service.stop()`` leave the endpoints alone: their subscriptions have been drained."""
    service._endpoints.clear()


def reply_of(request: Request) -> str:
    """Return the reply subject of ``request``; empty if it has none."""
    return request._msg.reply
