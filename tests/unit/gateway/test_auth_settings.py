"""Settings about who clients are: open only where that was meant, one way to sign, and a key that can."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.gateway.auth.jwt_verifier import PublicKey, SecretKey
from services.gateway.auth.settings import AuthSettings
from services.gateway.settings import Settings
from shared.service.settings import explain
from tests.support.issuer import SECRET, Pair

JWKS = "https://id.example/jwks.json"


def settings(**values: Any) -> AuthSettings:
    return AuthSettings(_env_file=None, **values)


def wrong(**values: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        settings(**values)
    (line,) = explain(raised.value)
    return line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_auth_settings(host: str) -> None:
    assert settings(host=host).auth_mode == "none"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gateway", "localhost.example.com", ""])
def test_auth_mode_none_is_explicit_away_from_loopback(host: str) -> None:
    assert "AUTH_MODE is not set" in wrong(host=host) and "join as any user" in wrong(host=host)
    assert settings(host=host, auth_mode="none").auth_mode == "none"
    assert settings(host=host, auth_mode="jwt", jwt_secret=SECRET).auth_mode == "jwt"


def test_auth_mode_none_by_environment_and_empty_values_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("AUTH_MODE", "")
    with pytest.raises(ValidationError, match="AUTH_MODE is not set"):
        Settings(_env_file=None)
    monkeypatch.setenv("AUTH_MODE", "none")
    assert Settings(_env_file=None).auth_mode == "none"


def test_jwt_needs_one_key_and_never_two() -> None:
    assert "has none" in wrong(auth_mode="jwt")
    pem = Pair("ES256").pem
    for two in (
        {"jwt_secret": SECRET, "jwt_public_key": pem},
        {"jwt_secret": SECRET, "jwt_jwks_url": JWKS},
        {"jwt_public_key": pem, "jwt_jwks_url": JWKS},
    ):
        line = wrong(auth_mode="jwt", **two)
        assert all(name.upper() in line for name in two) and SECRET not in line


def test_a_key_without_the_mode_is_a_mistake() -> None:
    assert "JWT_SECRET is set, but AUTH_MODE=jwt is not" in wrong(jwt_secret=SECRET)
    assert settings(auth_mode="none", jwt_secret=SECRET).auth_mode == "none"


def test_a_key_that_cannot_sign_is_named_and_not_shown() -> None:
    assert wrong(auth_mode="jwt", jwt_secret="hunter2") == "JWT_SECRET must have 32 bytes or more"
    assert wrong(auth_mode="jwt", jwt_public_key="hunter2") == "JWT_PUBLIC_KEY must be a public key in PEM"
    assert "https://" in wrong(auth_mode="jwt", jwt_jwks_url="file:///etc/passwd")


def test_keys_come_as_variables_or_files(tmp_path: Path) -> None:
    pem = Pair("EdDSA").pem
    secret_file, key_file = tmp_path / "secret", tmp_path / "key.pem"
    secret_file.write_text(f"{SECRET}\n")
    key_file.write_text(pem)
    assert settings(auth_mode="jwt", jwt_secret_file=secret_file).jwt_key() == SecretKey(SECRET)
    for found in (
        settings(auth_mode="jwt", jwt_public_key_file=key_file),
        settings(auth_mode="jwt", jwt_public_key=pem.replace("\n", "\\n")),
    ):
        key = found.jwt_key()
        assert isinstance(key, PublicKey) and key.algorithm == "EdDSA"
    assert "JWT_SECRET_FILE=" in wrong(auth_mode="jwt", jwt_secret_file=tmp_path / "nothing")
    secret_file.write_text("")
    assert "JWT_SECRET_FILE must have 32 bytes" in wrong(auth_mode="jwt", jwt_secret_file=secret_file)
