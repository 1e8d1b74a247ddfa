"""Settings of call control."""

from typing import Literal

from pydantic import Field

from shared.service.settings import BackendSettings
from shared.token_bucket import Rate, RateSetting


class Settings(BackendSettings):
    """Defines the settings of one instance of call control."""

    ring_timeout_seconds: float = Field(
        default=45.0, ge=1, le=600, description="How long a call rings before it ends with `timeout`."
    )
    rate_limit: bool = Field(
        default=True,
        description="`off`: no limits of connections, events, candidates, joins and ring attempts; for measurements.",
    )
    rings_per_caller: RateSetting = Field(
        default=Rate(20, 60), description="How often a user may ring others, on all gateways together."
    )
    rings_per_callee: RateSetting = Field(
        default=Rate(30, 60),
        description="How often a user may be rung by all callers together. Over it, only callers whose last ring of "
        "this user went unanswered within that time are refused.",
    )
    ring_backoff_seconds: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds that a caller waits before ringing the same user again after the third unanswered ring "
        "in a row; doubled by each further one. An answered call, or an hour without a ring, resets it. 0: off.",
    )
    ring_backoff_max_seconds: float = Field(
        default=600.0, ge=1, le=86_400, description="The longest such wait, in seconds."
    )
    rate_call_kb: RateSetting = Field(
        default=Rate(1024, 60),
        description="KiB of offers and answers that one side of a call may send, wherever it is connected, counted "
        "once for each device that they go to; while it rings, of candidates too.",
    )
    policy: Literal["off", "optional", "required"] = Field(
        default="off",
        description="Request of `rpc.policy.may_call` before a call rings; `off`: none. Without a reply within 300 ms, "
        "`optional` allows the call and `required` refuses it with `unavailable`.",
    )
    sweep_seconds: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="Seconds between two reconciliations, which end calls and release reservations left behind.",
    )
    deliver_max_age_seconds: int = Field(
        default=0,
        ge=0,
        le=86_400,
        description="Seconds that mailboxes keep messages. 0: twice `RESUME_WINDOW_SECONDS`, and at least 60.",
    )
    deliver_max_mb: int = Field(
        default=256,
        ge=1,
        le=65536,
        description="Memory for the mailboxes of all sessions (stream `DELIVER`).",
    )
