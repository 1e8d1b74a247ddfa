"""TURN credentials are as coturn's ``use-auth-secret`` wants them."""

import pytest
from pydantic import ValidationError

from services.gateway.auth.turn_credentials import USERNAME_MAX_BYTES, IceServers
from services.gateway.settings import Settings

STUN = {"urls": "stun:stun.example.com"}
TURN = ["turn:turn.example.com:3478", "turns:turn.example.com:5349?transport=tcp"]


def servers(turn: list[str] = TURN) -> IceServers:
    return IceServers([STUN], turn, "north", 600, lambda: 1_700_000_000_999)


def test_without_turn_nothing_expires() -> None:
    assert servers([]).issue("alice") == ([STUN], None)


def test_a_credential_is_the_hmac_of_its_username() -> None:
    issued = servers().issue("alice")
    # printf 1700000600:alice | openssl dgst -sha1 -hmac north -binary | base64
    assert issued.servers == [
        STUN,
        {"urls": TURN, "username": "1700000600:alice", "credential": "gthUwOpcRoLI0MMCziCEBOWYnpo="},
    ]
    assert issued.expires_at == 1_700_000_600_000


def test_a_long_user_id_is_cut_between_characters() -> None:
    username = servers().issue("🎧" * 128).servers[1]["username"]
    assert username.startswith("1700000600:🎧")
    assert USERNAME_MAX_BYTES - 4 < len(username.encode()) <= USERNAME_MAX_BYTES


@pytest.mark.parametrize(
    "values",
    [
        {"turn_urls": "turn:a"},
        {"turn_secret": "s"},
        {"turn_urls": "stun:a", "turn_secret": "s"},
        {"turn_urls": "turn:a", "turn_secret": "s", "turn_ttl_seconds": 1},
    ],
)
def test_half_a_turn_server_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(values)


def test_the_secret_is_not_printed() -> None:
    settings = Settings.model_validate({"turn_urls": "turn:a, turn:b", "turn_secret": "hidden"})
    assert settings.turn_urls == ("turn:a", "turn:b")
    assert "hidden" not in repr(settings)
