"""compose.yaml, .env.example and the NATS configurations name what there is. Needs no Docker."""

import re
import subprocess
from pathlib import Path

import pytest

from services.callcore.settings import Settings as CallcoreSettings
from services.gateway.settings import Settings as GatewaySettings
from services.presence.settings import Settings as PresenceSettings
from shared.service.settings import ServiceSettings
from signalling import nats_users
from signalling.nats_users import Passwords
from signalling.run import nats_server
from tests.stack.engine import REPOSITORY

COMPOSE = (REPOSITORY / "compose.yaml").read_text()
EXAMPLE = (REPOSITORY / ".env.example").read_text()
SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "callcore": CallcoreSettings,
    "presence": PresenceSettings,
}
BY_THE_IMAGE = {"HOST", "PORT", "HEALTH_PORT", "METRICS_HOST", "METRICS_PORT"}
EACH_ITS_OWN = {"INSTANCE_ID"}
INSTEAD = {"NATS_PASSWORD_FILE"}
OF_COMPOSE_ITSELF = {"COMPOSE_PROFILES"}


def _keys(kind: str) -> set[str]:
    return {name.upper() for name in SETTINGS[kind].model_fields}


@pytest.mark.parametrize("kind", SETTINGS)
def test_compose_hands_every_setting_on(kind: str) -> None:
    block = re.search(rf"^  {kind}:\n((?:    .*\n|\n)*)", COMPOSE, re.M)
    assert block is not None
    _, _, environment = block[1].partition("    environment:\n")
    names = re.findall(r"^      ([A-Z_]+):", environment, re.M)
    assert len(names) == len(set(names))
    assert set(names) == _keys(kind) - BY_THE_IMAGE - EACH_ITS_OWN - INSTEAD


def test_the_example_has_every_variable_once() -> None:
    named = re.findall(r"^# ?([A-Z][A-Z_0-9]+)=", EXAMPLE, re.M)
    assert len(named) == len(set(named))
    used = set(re.findall(r"\$\{([A-Z_0-9]+)", COMPOSE))
    used |= set(re.findall(r"^      ([A-Z_]+):$", COMPOSE, re.M))
    assert set(named) == used | set().union(*map(_keys, SETTINGS)) | OF_COMPOSE_ITSELF


def test_the_example_sets_nothing_by_itself() -> None:
    assert [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")] == []


def test_the_example_has_the_defaults() -> None:
    shown = dict(re.findall(r"^# ?([A-Z][A-Z_0-9]+)=(.*)$", EXAMPLE, re.M))
    for variable, default in re.findall(r"\$\{([A-Z_0-9]+):?-([^}]*)\}", COMPOSE):
        assert shown[variable] == default, variable
    for cls in SETTINGS.values():
        for name, field in cls.model_fields.items():
            default = (
                ",".join(field.default)
                if isinstance(field.default, tuple)
                else str("" if field.default is None else field.default)
            )
            assert shown[name.upper()] == default.removesuffix(".0"), name


@pytest.mark.parametrize("name", ["single", "cluster"])
def test_nats_takes_subjects_as_long_as_ours_can_be(name: str) -> None:
    text = (REPOSITORY / "deploy" / "nats" / f"{name}.conf").read_text()
    assert f"max_control_line: {nats_server._MAX_CONTROL_LINE}\n" in text and "max_payload: 1MB\n" in text


@pytest.mark.parametrize("name", ["single", "cluster"])
def test_nats_takes_its_configuration_and_knows_its_users(name: str, tmp_path: Path) -> None:
    config = REPOSITORY / "deploy" / "nats" / f"{name}.conf"
    assert "\ninclude accounts.conf\n" in config.read_text()
    others = {"NATS_NAME": "nats-1", "NATS_MEMORY": "1G", "NATS_DISK": "10G"}
    routes = {f"NATS_ROUTE_{n}": f"nats://cluster:pw{n}@nats-{n}:6222" for n in (1, 2, 3)}
    env = Passwords.new(tmp_path / "passwords").server_env() | others | routes
    for missing in (
        None,
        *(nats_users.variable(user) for user in (*nats_users.SERVICES, nats_users.MONITOR)),
    ):
        done = subprocess.run(
            [nats_server.find_binary(), "-t", "-c", str(config)],
            env={key: value for key, value in env.items() if key != missing},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        assert (done.returncode == 0) is (missing is None), done.stderr


def test_there_is_a_password_for_each_user_and_nothing_starts_without() -> None:
    made = subprocess.run(
        ["/bin/sh", str(REPOSITORY / "deploy" / "nats" / "new-passwords")],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    ).stdout
    names = re.findall(r"^(\w+)=p[0-9a-f]{32}$", made, re.M)
    assert set(names) == {nats_users.variable(user) for user in nats_users.ALL}
    assert len(names) == len(made.splitlines()) == len(set(made.splitlines()))
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE))
    assert required == {*names, "AUTH_MODE"}
