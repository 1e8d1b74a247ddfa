"""Read settings from the environment and ``.env``, and explain wrong values."""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.nats import urls
from shared.nats.connection import Login

SECRETIVE = frozenset({"ICE_SERVERS", "JWT_SECRET", "NATS_PASSWORD", "TURN_SECRET"})
"""Settings whose values are not printed."""
PLAIN = {
    "bool_parsing": "must be `on` or `off`",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
}
"""Errors of Pydantic that get a text of our own."""
EXIT_USAGE = 2
"""Exit status of a service whose settings are wrong."""


def readable(file: Path | None) -> Path | None:
    """Validate that the file exists and is a text."""
    try:
        if file is not None:
            file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise ValueError(f"cannot be read: {reason}") from None
    return file


class ServiceSettings(BaseSettings):
    """Settings that all services share. Keys are the upper-case field names."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    nats_url: Annotated[str, AfterValidator(urls.checked)] = Field(
        default="nats://127.0.0.1:4222",
        description="NATS servers, comma separated: `nats://host:port` or `tls://host:port`. JetStream must be on. A "
        "password with one of `/?#,` goes into `NATS_PASSWORD`.",
    )
    nats_user: str = Field(default="", description="User at NATS; goes before one in `NATS_URL`.")
    nats_password: SecretStr = Field(default=SecretStr(""), description="Its password.")
    nats_password_file: Annotated[Path | None, AfterValidator(readable)] = Field(
        default=None, description="File with its password; goes before `NATS_PASSWORD`."
    )
    instance_id: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,40}$",
        description="Name of this instance in subjects and logs; a gateway adds random characters at each start. "
        "Empty: the service's name and random characters.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port for `/metrics`, which Prometheus reads; never one that is published. 0: none.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address for it to listen on.")
    kv_replicas: Annotated[int, Field(ge=1, le=5)] = Field(
        default=1, description="Copies of every stream and bucket. 3 for a NATS cluster of three."
    )
    request_timeout_seconds: float = Field(
        default=2.0, gt=0, le=30, description="How long one try of a request to another service may take."
    )
    resume_window_seconds: int = Field(
        default=30, ge=1, le=3600, description="How long a session whose transport broke may be resumed."
    )
    traces_endpoint: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where spans go by OTLP over HTTP, e.g. `http://collector:4318/v1/traces`. Empty: no traces.",
    )
    traces_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Of how many calls, and of other events, there are traces."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object a line, or text for people."
    )

    def nats_login(self) -> Login | None:
        """Return the login at NATS; ``None`` without one."""
        if not self.nats_user:
            return None
        file = self.nats_password_file
        return Login(
            self.nats_user,
            file.read_text().strip() if file is not None else self.nats_password.get_secret_value(),
        )


class BackendSettings(ServiceSettings):
    """Settings that presence and callcore share: health, and the stream ``EVENTS``."""

    health_port: int = Field(
        default=0, ge=0, le=65535, description="Port for `/healthz` and `/readyz`. 0: none."
    )
    events_max_age_hours: int = Field(
        default=72, ge=1, le=8760, description="How long `EVENTS` keeps what happened."
    )
    events_max_mb: int = Field(
        default=1024, ge=1, le=1_048_576, description="Disk for `EVENTS`; oldest out first."
    )


S = TypeVar("S", bound=ServiceSettings)

CommaList = Annotated[tuple[str, ...], NoDecode]
"""A comma separated list in the environment. Pair it with a ``mode="before"`` validator using :func:`split`."""


def split(value: object) -> object:
    """``"a, b"`` → ``("a", "b")``; anything but text stays as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def load(cls: type[S]) -> S:
    """Return the settings from environment and ``.env``. A wrong value: one line a key on stderr, exit status 2."""
    try:
        return cls()
    except ValidationError as error:
        for line in explain(error):
            print(line, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


def explain(error: ValidationError) -> list[str]:
    """Return a line for each wrong key: its name, its value and what is allowed. For keys that conflict: the reason."""
    lines = []
    for item in error.errors(include_url=False):
        if not item["loc"]:
            lines.append(item["msg"].removeprefix("Value error, "))
            continue
        key = str(item["loc"][0]).upper()
        value = item["input"] if isinstance(item["input"], str | int | float) else "…"
        if key in SECRETIVE or "@" in str(value):  # there may be a password in it
            value = "…"
        allowed = PLAIN.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        lines.append(f"{key}={value}: {allowed[:1].lower()}{allowed[1:]}")
    return lines
