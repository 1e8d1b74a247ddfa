"""Define the command ``signalling``."""

import sys
from pathlib import Path
from typing import Any

import click

from services.gateway.auth.settings import AuthSettings
from shared.service import settings
from shared.service.runner import distribution_version
from signalling import dev_tokens
from signalling.monitor import commands as watching
from signalling.options import checked_nats
from signalling.run import supervisor as up_module
from signalling.run.plan import Plan


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(distribution_version(), prog_name="signalling")
def main() -> None:
    """Run and watch a call signalling system."""


_COUNT: dict[str, Any] = {"default": 1, "show_default": True, "type": click.IntRange(1, 64)}
_PORT_HELP = "Port of the first gateway; the others follow. 0: any free ones."
_NODES_HELP = "How many embedded NATS servers. 3: a cluster, with KV_REPLICAS=3 unless that is set."
_NATS_HELP = "A NATS server with JetStream, instead of an embedded one."
_DATA_HELP = "Keep the embedded server's store here. Default: a temporary folder that goes with it."


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the gateways listen on.")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help=_PORT_HELP)
@click.option("--gateways", **_COUNT, help="How many gateways.")
@click.option("--callcores", **_COUNT, help="How many call-control instances.")
@click.option("--presences", **_COUNT, help="How many presence instances.")
@click.option("--nats", metavar="URL", callback=checked_nats, help=_NATS_HELP)
@click.option("--nats-nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help=_NODES_HELP)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help=_DATA_HELP)
@click.option("--with-parent", is_flag=True, hidden=True)
@click.option("--ready-seconds", default=60.0, type=click.FloatRange(0.1, 3600), hidden=True)
@click.pass_obj
def up(
    commands: dict[str, list[str]] | None,
    host: str,
    port: int,
    gateways: int,
    callcores: int,
    presences: int,
    nats: str | None,
    nats_nodes: str,
    data: Path | None,
    with_parent: bool,
    ready_seconds: float,
) -> None:
    """Run the whole system on this machine, until Ctrl-C.

    Each service runs in its own process, which is restarted when it exits. Settings come from the environment and
    .env, as for each service alone.
    """
    if nats is not None and data is not None:
        raise click.UsageError("--data is the store of the embedded server; it does not go with --nats")
    if nats is not None and nats_nodes != "1":
        raise click.UsageError("--nats-nodes is about embedded servers; it does not go with --nats")
    plan = Plan(
        host,
        port,
        gateways,
        callcores,
        presences,
        nats,
        int(nats_nodes),
        data,
        with_parent,
        ready_seconds,
        commands or {},
    )
    sys.exit(up_module.run(plan))


@main.command()
@click.option("--user", metavar="U", required=True, help="User of the token: `userId` of `user:join`.")
@click.option(
    "--seconds",
    default=3600,
    show_default=True,
    type=click.IntRange(1, 31_536_000),
    help="How long the token is valid.",
)
def token(user: str, seconds: int) -> None:
    """Mint a token for development, with the JWT_SECRET of the environment and .env."""
    config = settings.load(AuthSettings)
    try:
        click.echo(dev_tokens.mint(config, user, seconds))
    except dev_tokens.NoToken as error:
        raise click.ClickException(str(error)) from None


for command in (watching.monitor, watching.tail, watching.history, watching.probe):
    main.add_command(command)
