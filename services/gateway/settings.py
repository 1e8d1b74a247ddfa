"""Settings of the gateway."""

import json
import re
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from services.gateway.auth.settings import AuthSettings
from services.gateway.limits.settings import LimitSettings
from services.gateway.transport.host_check import host_name
from shared.service.settings import CommaList, split

_ICE_URL = re.compile(r"(stuns?:[^?\s]+|turns?:[^?\s]+(\?transport=(udp|tcp))?)")
_WRONG_ICE = "wrong_ice_server"
_ICE_URLS = "urls must be addresses like stun:host:port or turn:host:port, with ?transport=udp or tcp at most"
_TURN_NEEDS = (
    "a turn: or turns: server needs username and credential; one that shares a secret goes into TURN_URLS"
)


class IceServer(BaseModel):
    """A STUN or TURN server, in the shape of WebRTC's ``RTCIceServer``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    urls: str | list[str]
    username: str | None = None
    credential: str | None = None

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        """Refuse servers on which browsers throw, because then no call could start."""
        urls = [self.urls] if isinstance(self.urls, str) else self.urls
        if not urls or not all(_ICE_URL.fullmatch(url) for url in urls):
            raise PydanticCustomError(_WRONG_ICE, _ICE_URLS)
        if any(url.startswith("turn") for url in urls) and not (self.username and self.credential):
            raise PydanticCustomError(_WRONG_ICE, _TURN_NEEDS)
        return self


_ICE_SERVERS = TypeAdapter(tuple[IceServer, ...])


class Settings(LimitSettings, AuthSettings):
    """Defines all settings of a gateway."""

    port: int = Field(
        default=8001, ge=1, le=65535, description="Port of Socket.IO and of `/healthz`, `/readyz`."
    )
    client_url: CommaList = Field(
        default=("http://localhost:3000",),
        description="Origins of web pages that may connect, comma separated, besides the gateway's own. `*`: any.",
    )
    allowed_hosts: CommaList = Field(
        default=(),
        description="Names and addresses that clients may send as `Host`, any port, comma separated, besides loopback "
        "ones. Empty: only loopback ones if `HOST` is loopback, else any. `*`: any.",
    )
    demo: bool = Field(
        default=False, description="Serve the demo page at `/`. `signalling up` sets it by default."
    )
    ice_servers: Annotated[tuple[IceServer, ...], NoDecode] = Field(
        default=(),
        description='`iceServers` that clients are sent: a JSON list of `{"urls", "username"?, "credential"?}`.',
    )
    turn_urls: CommaList = Field(
        default=(),
        description="TURN servers that share `TURN_SECRET` (coturn's `use-auth-secret`), comma separated: "
        "`turn:host:port`, `turns:host:port?transport=tcp`. Each client is sent them with its own credentials.",
    )
    turn_secret: SecretStr = Field(
        default=SecretStr(""), description="Secret of the credentials for `TURN_URLS`."
    )
    turn_ttl_seconds: int = Field(
        default=3600, ge=60, le=86_400, description="How long a credential for `TURN_URLS` is valid."
    )
    ping_interval_seconds: int = Field(
        default=10, ge=1, le=300, description="Interval in which a client is sent pings."
    )
    ping_timeout_seconds: int = Field(
        default=10, ge=1, le=300, description="How long a client may take to answer a ping."
    )
    max_frame_kb: int = Field(
        default=128, ge=80, le=1024, description="Size of one websocket frame or polling request, in KiB."
    )
    strikes_max: int = Field(
        default=20,
        ge=1,
        le=10_000,
        description="Malformed messages a minute before a client is disconnected.",
    )
    join_timeout_seconds: float = Field(
        default=30, gt=0, le=3600, description="How long a client may take to join before it is disconnected."
    )
    relay_ack_seconds: float = Field(
        default=4,
        gt=0,
        le=60,
        description="Timeout of the acknowledgement of a relay, which waits for the peer's gateway.",
    )

    drain_seconds: float = Field(
        default=20,
        ge=0,
        le=3600,
        description="Time over which a stopping gateway closes its connections. 0: all at once.",
    )
    unread_max_kb: int = Field(
        default=4096,
        ge=256,
        le=1_048_576,
        description="Unread data of one client, in KiB.",
    )
    unread_seconds: float = Field(
        default=20,
        ge=1,
        le=3600,
        description="How long data may wait for a client to read it; then its connection is closed, and the client may "
        "resume. If longer than `RESUME_WINDOW_SECONDS`, its mailbox may not reach back that far.",
    )
    unread_total_mb: int = Field(
        default=256,
        ge=1,
        le=1_048_576,
        description="Unread data of all clients of a gateway, in MiB. Past it, connections of clients that do not read "
        "are closed, those with most unread data first. At least `UNREAD_MAX_KB`.",
    )

    @field_validator("client_url", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        parts = split(value)
        if isinstance(parts, tuple):
            for part in parts:
                if part != "*" and not str(part).startswith(("http://", "https://")):
                    raise ValueError("must be '*' or origins like https://example.com, comma separated")
            return tuple(str(part).rstrip("/") for part in parts)
        return parts

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        parts = split(value)
        if not isinstance(parts, tuple):
            return parts
        names = []
        for part in map(str, parts):
            if (name := host_name(f"{part}:0")) is None:
                raise ValueError("must be '*' or names and addresses ([::1] in brackets) without port")
            names.append(name)
        return tuple(names)

    @field_validator("turn_urls", mode="before")
    @classmethod
    def _turns(cls, value: object) -> object:
        parts = split(value)
        if isinstance(parts, tuple) and not all(str(part).startswith(("turn:", "turns:")) for part in parts):
            raise ValueError("must be addresses like turn:turn.example.com:3478, comma separated")
        return parts

    @model_validator(mode="after")
    def _one_client_is_not_all(self) -> Self:
        if self.unread_max_kb > self.unread_total_mb * 1024:
            raise ValueError("UNREAD_MAX_KB must not be more than UNREAD_TOTAL_MB")
        return self

    @model_validator(mode="after")
    def _turn_is_whole(self) -> Self:
        if bool(self.turn_urls) != bool(self.turn_secret.get_secret_value()):
            raise ValueError("TURN_URLS and TURN_SECRET go together: set both or neither")
        return self

    @field_validator("ice_servers", mode="before")
    @classmethod
    def _servers(cls, value: object) -> object:
        try:
            return _ICE_SERVERS.validate_json(value) if isinstance(value, str) else value
        except ValidationError as error:
            for wrong in error.errors(include_url=False, include_input=False):
                if wrong["type"] == _WRONG_ICE:
                    raise ValueError(wrong["msg"]) from None
            raise ValueError(
                'must be a JSON list of {"urls": text or list of texts, "username"?: text, "credential"?: text}'
            ) from None

    def ice_servers_wire(self) -> list[dict[str, Any]]:
        """Return ``iceServers`` as clients are sent them."""
        return [json.loads(server.model_dump_json(exclude_none=True)) for server in self.ice_servers]
