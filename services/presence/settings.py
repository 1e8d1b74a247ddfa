"""Settings of presence."""

from typing import Literal

from pydantic import Field

from shared.service.settings import BackendSettings
from shared.token_bucket import Rate, RateSetting


class Settings(BackendSettings):
    """Defines the settings of one instance of presence."""

    session_policy: Literal["multi", "single"] = Field(
        default="multi",
        description="`multi`: a user may be joined from several devices. `single`: each join replaces the one before.",
    )
    sessions_per_user: int = Field(
        default=10, ge=1, le=100, description="Devices that a user may be joined from at a time."
    )
    rate_limit: bool = Field(
        default=True,
        description="`off`: no limits of connections, events, candidates, joins and ring attempts; for measurements.",
    )
    joins_per_user: RateSetting = Field(
        default=Rate(120, 300),
        description="How often a user may join, from all devices and on all gateways together.",
    )
    status_visibility: Literal["everyone", "contacts"] = Field(
        default="everyone",
        description="Which users see in `user:status` that a user is online: all, or those whom `rpc.policy.may_see` "
        "allows; to others the user is offline. With `contacts`, a policy service has to reply within 300 ms.",
    )
