"""Settings of presence."""

from typing import Literal

from pydantic import Field

from shared.settings import BackendSettings


class Settings(BackendSettings):
    """What presence can be told."""

    session_policy: Literal["multi", "single"] = Field(
        default="multi",
        description="`multi`: a user may be joined from several devices. `single`: each join replaces the one before.",
    )
    sessions_per_user: int = Field(
        default=10, ge=1, le=100, description="Devices that a user may be joined from at a time."
    )
    status_visibility: Literal["everyone", "contacts"] = Field(
        default="everyone",
        description="Who is told in `user:status` whether a user is online: anybody, or whom `rpc.policy.may_see` "
        "allows; to others the user is offline. With `contacts` somebody has to answer that, within 300 ms.",
    )
