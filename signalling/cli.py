"""The command ``signalling``."""

import sys
from pathlib import Path

import click

from shared.runner import distribution_version
from signalling import up as up_module
from signalling.plan import Plan


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(distribution_version(), prog_name="signalling")
def main() -> None:
    """Call signalling: run it, watch it."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the gateways listen on.")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="Port of the first gateway; the others follow. 0: any free ones.")  # fmt: skip
@click.option(
    "--gateways", default=1, show_default=True, type=click.IntRange(1, 64), help="How many gateways."
)
@click.option("--callcores", default=1, show_default=True, type=click.IntRange(1, 64), help="How many call-control instances.")  # fmt: skip
@click.option("--presences", default=1, show_default=True, type=click.IntRange(1, 64), help="How many presence instances.")  # fmt: skip
@click.option(
    "--nats", metavar="URL", help="An existing NATS server with JetStream, instead of an embedded one."
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Keep the embedded server's store here. Default: a temporary folder that goes with it.")  # fmt: skip
def up(
    host: str, port: int, gateways: int, callcores: int, presences: int, nats: str | None, data: Path | None
) -> None:
    """Run the whole system on this machine, until Ctrl-C.

    Each service is a process of its own; one that dies is started again. Settings come from the environment and
    .env, as for each service alone.
    """
    plan = Plan(host, port, gateways, callcores, presences, nats, data)
    sys.exit(up_module.run(plan))
