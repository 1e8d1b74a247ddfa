"""Settings of the authentication of clients."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from services.gateway.auth.jwt_verifier import KeyUnusable, PublicKey, SecretKey
from shared.service.settings import ServiceSettings, readable

KeyFile = Annotated[Path | None, AfterValidator(readable)]


class AuthSettings(ServiceSettings):
    """Defines whether clients need a token, and which tokens are valid."""

    auth_mode: Literal["none", "jwt"] = Field(
        default="none",
        description="`jwt`: the token of a client names its user. `none`: clients join as any user, without a token; "
        "this has to be set explicitly if `HOST` is not loopback.",
    )
    user_id_invisible: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Refuse or allow user ids with bidirectional controls or zero-width characters, which make an "
        "id look like another. A joiner between two emoji is always allowed.",
    )
    jwt_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Tokens are signed with HS256 and this secret of 32 bytes or more. One of `JWT_SECRET`, "
        "`JWT_PUBLIC_KEY` and `JWT_JWKS_URL` is to be set, never two.",
    )
    jwt_secret_file: KeyFile = Field(default=None, description="File with it, instead.")
    jwt_public_key: str = Field(
        default="",
        description="Tokens are signed with the private key to this one (PEM; `\\n` stands for a line break): "
        "RS256, ES256 or EdDSA, by the type of the key.",
    )
    jwt_public_key_file: KeyFile = Field(default=None, description="File with it, instead.")
    jwt_jwks_url: str = Field(
        default="", description="Tokens are signed with one of the keys that are published here (JWKS)."
    )
    jwt_jwks_refresh_seconds: float = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Interval in which the keys are read again. A withdrawn key is accepted until then.",
    )
    jwt_issuer: str = Field(default="", description="`iss` that a token must have. Empty: any.")
    jwt_audience: str = Field(default="", description="`aud` that a token must have. Empty: any.")
    jwt_leeway_seconds: float = Field(
        default=5, ge=0, le=60, description="How far the clock of the issuer of tokens may differ."
    )
    jwt_max_age_seconds: int = Field(
        default=2_678_400,
        ge=0,
        le=3_153_600_000,
        description="How long a token is valid at most after a join or refresh with it, whatever its `exp`. "
        "0: until `exp`.",
    )

    @field_validator("jwt_jwks_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must begin with https:// or http://")
        return value

    @model_validator(mode="after")
    def _authentication_is_chosen(self) -> Self:
        """Refuse a gateway that is open by mistake, and two keys, of which one could be used for the other."""
        explicit = "auth_mode" in self.model_fields_set
        given = [
            name
            for name in (
                "jwt_secret",
                "jwt_secret_file",
                "jwt_public_key",
                "jwt_public_key_file",
                "jwt_jwks_url",
            )
            if getattr(self, name) not in (None, "", SecretStr(""))
        ]
        if self.auth_mode == "jwt":
            if len(given) != 1:
                raise ValueError(
                    "AUTH_MODE=jwt needs one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL, has "
                    + (" and ".join(name.upper() for name in given) or "none")
                )
            try:
                self.jwt_key()
            except KeyUnusable as error:
                raise ValueError(f"{given[0].upper()} {error}") from None
        elif given and not explicit:
            raise ValueError(f"{given[0].upper()} is set, but AUTH_MODE=jwt is not")
        elif not explicit and not is_loopback(self.host):
            raise ValueError(
                f"AUTH_MODE is not set, and HOST={self.host} is not loopback: set AUTH_MODE=jwt and a key, or "
                "AUTH_MODE=none, with which any client that reaches the gateway can join as any user"
            )
        return self

    def jwt_key(self) -> SecretKey | PublicKey | None:
        """Return the key of tokens; ``None`` if it is published, or not needed. Raises :class:`KeyUnusable`."""
        if self.jwt_secret_file is not None:
            return SecretKey.of(self.jwt_secret_file.read_text().strip())
        if secret := self.jwt_secret.get_secret_value():
            return SecretKey.of(secret)
        if self.jwt_public_key_file is not None:
            return PublicKey.from_pem(self.jwt_public_key_file.read_text())
        pem = self.jwt_public_key.replace("\\n", "\n")
        return PublicKey.from_pem(pem) if pem else None


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
