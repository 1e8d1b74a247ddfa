"""What the containers may do and what is in them."""

import json

import pytest

from services.gateway.settings import Settings
from signalling.nats_users import ALL
from tests.stack.engine import docker
from tests.stack.images import OURS, Images
from tests.stack.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

IMAGE_MB = 92
"""What our layers may add to the base."""


async def test_one_port_is_published_and_it_is_not_that_of_nats(stack: Stack) -> None:
    published = {
        (container.service, port): [binding["HostPort"] for binding in bindings]
        for container in stack.containers()
        for port, bindings in container.found["NetworkSettings"]["Ports"].items()
        if bindings
    }
    assert published == {("proxy", "8080/tcp"): [str(stack.port)]}


async def test_no_container_can_do_more_than_it_must(stack: Stack) -> None:
    for container in stack.containers():
        host = container.found["HostConfig"]
        assert host["ReadonlyRootfs"], container.name
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], container.name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], container.name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", container.name
        assert host["LogConfig"]["Config"]["max-size"], container.name
        assert container.state["Health"]["Status"] == "healthy", container.name
        if container.service != "nats":
            assert container.found["Config"]["User"].split(":")[0] not in ("", "0", "root"), container.name


async def test_the_image_cannot_be_written_to(stack: Stack) -> None:
    code = "import sys\ntry: open('/srv/x', 'w')\nexcept OSError as e: sys.exit(e.errno)"
    with pytest.raises(AssertionError, match=r": 30\n"):  # EROFS
        docker("exec", stack.one("callcore").id, "python", "-c", code)


async def test_who_talks_to_nats_cannot_be_reached_from_outside(stack: Stack) -> None:
    networks = {
        container.service: {name.split("_")[-1] for name in container.found["NetworkSettings"]["Networks"]}
        for container in stack.containers()
    }
    assert networks == {
        "proxy": {"edge"},
        "gateway": {"bus", "edge"},
        "callcore": {"bus"},
        "presence": {"bus"},
        "nats": {"bus"},
    }
    (bus,) = json.loads(docker("network", "inspect", f"{stack.project}_bus"))
    assert bus["Internal"]


async def test_it_can_be_watched_and_each_container_knows_its_own_password_only(stack: Stack) -> None:
    look = await stack.compose("run", "--rm", "-T", "watch", "monitor", "--once", "--json")
    view = json.loads(look[look.index("{") :])
    assert {each["service"] for each in view["instances"]} == {"gateway", "callcore", "presence"}
    assert view["nats"]["servers"] == 1
    for container in stack.containers():
        env = "\n".join(container.found["Config"]["Env"] or ())
        known = {user for user in ALL if stack.access.passwords.of(user) in env}
        assert known == (set(ALL) if container.service == "nats" else {container.service} & set(ALL))


async def test_stopping_may_take_as_long_as_it_takes(stack: Stack) -> None:
    grace = stack.one("gateway").found["Config"]["StopTimeout"]
    assert grace is not None and grace >= Settings.model_fields["drain_seconds"].default + 15


async def test_the_image_says_what_it_is(built: Images) -> None:
    (image,) = json.loads(docker("image", "inspect", OURS))
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "hellotalk-signalling"
    assert labels["org.opencontainers.image.revision"] == "test"
    assert image["Config"]["User"] == "10001:10001" and image["Config"]["Healthcheck"]


async def test_the_image_is_small_and_has_nothing_that_it_does_not_need(built: Images) -> None:
    history = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", OURS)
    ours = [line for line in history.splitlines() if "/opt/signalling" in line or "healthcheck.py" in line]
    assert ours and sum(int(line.split()[0]) for line in ours) < IMAGE_MB * 1_000_000, ours
    look = (
        "import importlib.util as u, pathlib as p, json; "
        "print(json.dumps([[m for m in ('pip', 'setuptools', 'hatchling', 'editables', 'pluggy',"
        " 'nats_server', 'tests', 'pytest') if u.find_spec(m)],"
        " [str(f) for f in p.Path('/srv').rglob('*')], [str(f) for f in p.Path('/opt').rglob('.env*')],"
        " [str(f) for f in p.Path('/opt').rglob('nats-server*')]]))"
    )
    found = docker("run", "--rm", "--entrypoint", "/opt/signalling/bin/python", OURS, "-c", look)
    assert json.loads(found) == [[], [], [], []]
