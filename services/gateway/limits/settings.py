"""Settings of the limits of a gateway."""

import ipaddress

from pydantic import Field, field_validator

from services.gateway.protocol.packets import DEPTH_MAX
from shared.contracts.client import Sizes
from shared.service.settings import CommaList, ServiceSettings, split
from shared.token_bucket import Rate, RateSetting


class LimitSettings(ServiceSettings):
    """Limits of connections and of events. A rate is ``events/seconds``: a token bucket."""

    rate_limit: bool = Field(
        default=True,
        description="`off`: no limits of connections, events, candidates, joins and ring attempts; for measurements.",
    )
    trusted_proxies: CommaList = Field(
        default=(),
        description="Addresses and networks whose `X-Forwarded-For` counts, comma separated. A client's address is the "
        "right-most in it that is not one of them. Empty: the header is ignored.",
    )
    connections_per_address: int = Field(
        default=2000,
        ge=1,
        le=1_000_000,
        description="Connections at a gateway from one address (IPv6: one /64). Offices and mobile networks have "
        "thousands of people behind one.",
    )
    connections_per_user: int = Field(
        default=20, ge=1, le=1000, description="Joined sockets of one user at a gateway."
    )
    unjoined_max: int = Field(
        default=8192,
        ge=1,
        le=1_000_000,
        description="Connections at a gateway that have not joined yet. Past it, the oldest of the address that has "
        "most of them is closed in favour of one from another address.",
    )
    rate_candidates: RateSetting = Field(default=Rate(600, 30), description="`ice:candidate` of one socket.")
    rate_offers: RateSetting = Field(
        default=Rate(60, 30), description="`call:offer` and `call:answer` of one socket."
    )
    rate_initiates: RateSetting = Field(default=Rate(20, 60), description="`call:initiate` of one socket.")
    rate_status: RateSetting = Field(default=Rate(200, 20), description="`user:status` of one socket.")
    rate_others: RateSetting = Field(default=Rate(120, 30), description="All other events of one socket.")
    rate_user_factor: int = Field(
        default=3,
        ge=1,
        le=100,
        description="A user may send this many times the rates of one socket, from all sockets at a gateway.",
    )
    rate_user_kb: RateSetting = Field(
        default=Rate(2048, 60),
        description="KiB of offers, answers and candidates that a user may send from all sockets at a gateway.",
    )
    refusals_max: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Events over a rate a minute before a client is disconnected.",
    )
    candidates_per_call: int = Field(
        default=500,
        ge=1,
        le=1_000_000,
        description="Candidates that a user may send in one call; each `null` counts, too.",
    )

    sdp_max_kb: int = Field(
        default=64,
        ge=8,
        le=64,
        description="Size of an offer or answer, in KiB of JSON. Clients rely on 64.",
    )
    candidate_max_bytes: int = Field(
        default=2048,
        ge=512,
        le=2048,
        description="Size of a candidate, in bytes of JSON. Clients rely on 2048.",
    )
    metadata_max_bytes: int = Field(
        default=4096,
        ge=0,
        le=4096,
        description="Size of a call's `metadata`, in bytes of JSON. Clients rely on 4096.",
    )
    json_depth_max: int = Field(
        default=DEPTH_MAX,
        ge=8,
        le=DEPTH_MAX,
        description="Nesting depth of lists and objects in the JSON that a client sends.",
    )

    def connection_limits(self) -> tuple[int, int, int]:
        """Return the limits of connections: per address, not joined, per user."""
        return self.connections_per_address, self.unjoined_max, self.connections_per_user

    def sizes(self) -> Sizes:
        """Return the limits of payloads."""
        return Sizes(self.sdp_max_kb * 1024, self.candidate_max_bytes, self.metadata_max_bytes)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        parts = split(value)
        if isinstance(parts, tuple):
            for part in parts:
                try:
                    ipaddress.ip_network(part)
                except ValueError:
                    raise ValueError(
                        "must be addresses or networks like 10.0.0.0/8, comma separated"
                    ) from None
        return parts
