"""Define the commands that observe a running system: ``tail``, ``history``, ``probe``, ``monitor``."""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

import click

from services.gateway.auth.settings import AuthSettings
from shared import subjects
from shared.errors import Unavailable
from shared.ids import new_id
from shared.service.settings import load
from signalling import dev_tokens
from signalling.monitor import history as history_module
from signalling.monitor import tables
from signalling.monitor.collector import Collector
from signalling.monitor.connection import connected
from signalling.monitor.probe import Probe
from signalling.monitor.tail import follow
from signalling.options import checked_nats

_NATS_HELP = "NATS servers, comma separated. Default: NATS_URL of the environment and .env."
ONCE_SECONDS = 1.0
"""Time over which ``--once`` measures rates, in seconds."""
PROBE_TOKEN_SECONDS = 3600
"""Validity of the probe's tokens, longer than all of its steps, in seconds."""
nats_option = click.option("--nats", metavar="URL", help=_NATS_HELP, callback=checked_nats)


def _run(doing: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(doing)
    except Unavailable as error:
        raise click.ClickException(error.message) from None
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe (``| head``); nor may Python's own last flush fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command()
@nats_option
@click.option(
    "--user", metavar="U", help="Only messages that name this user, or go to one of the user's devices."
)
@click.option("--call", metavar="C", help="Only messages that name this call.")
@click.option("--subject", metavar="S", help="Subscribe to this instead, e.g. 'deliver.>' or 'live.>'.")
@click.option("--raw", is_flag=True, help="Show SDP, candidates and metadata, too. Tokens are never shown.")
def tail(nats: str | None, user: str | None, call: str | None, subject: str | None, raw: bool) -> None:
    """Print the messages on the bus, one a line, until Ctrl-C."""

    async def main() -> None:
        async with connected(nats) as bus:
            await follow(bus, _say, user=user, call=call, subject=subject, raw=raw)

    _run(main())


@click.command()
@nats_option
@click.argument("call")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def history(nats: str | None, call: str, as_json: bool) -> None:
    """Print the timeline of a call, as long as the stream EVENTS keeps it."""

    async def main() -> None:
        async with connected(nats) as bus:
            found = await history_module.read(bus, call)
        if found is None:
            raise click.ClickException(f"no call {call!r} in {subjects.STREAM_EVENTS}")
        for line in (json.dumps(found.to_dict()),) if as_json else history_module.page(found):
            _say(line)

    _run(main())


@click.command()
@nats_option
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.5, 60),
    help="Seconds between snapshots.",
)
@click.option("--once", is_flag=True, help="Take one snapshot within a second, print it, and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON object.")
def monitor(nats: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show services, users, calls, traffic and storage, live. Enter shows a call's timeline, / filters, q quits."""
    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("this needs a terminal; --once does not")

    async def look() -> None:
        async with connected(nats) as bus:
            looker = Collector(bus)
            await looker.start()
            await looker.look()
            await asyncio.sleep(ONCE_SECONDS)
            view = await looker.look()
        for line in (json.dumps(view.to_dict()),) if as_json else tables.page(view, tables.Order()):
            _say(line)

    async def show() -> None:
        from signalling.monitor.tui import Monitor  # it takes a while to load

        async with connected(nats, quiet=True) as bus:
            await Monitor(bus, interval=interval).run_async()

    _run(look() if once else show())


@click.command()
@click.option("--url", default="http://127.0.0.1:8001", show_default=True, help="URL of a gateway.")
@click.option(
    "--transport", type=click.Choice(["websocket", "polling"]), default="websocket", show_default=True
)
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1, 300),
    help="Limit of each step, in seconds.",
)
@click.option(
    "--token",
    "given",
    multiple=True,
    metavar="T",
    envvar="PROBE_TOKENS",
    help="Twice: of the caller and the callee, where AUTH_MODE=jwt. Also PROBE_TOKENS, space between, where no list of "
    "processes shows them. Default: minted with JWT_SECRET.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def probe(url: str, transport: str, timeout: float, given: tuple[str, ...], as_json: bool) -> None:
    """Place a call between two users of its own, or those of two tokens, and print the time of each step.

    The exit status is 1 if a step failed.
    """
    if len(given) not in (0, 2):
        raise click.BadParameter("needs two, of the caller and the callee", param_hint="--token")
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
    try:
        users = [(dev_tokens.user_of(token), token) for token in given] or _throw_away_users()
    except dev_tokens.NoToken as error:
        raise click.ClickException(str(error)) from None
    trial = Probe(url, *users, transport=transport, seconds=timeout)
    _run(trial.run())
    if as_json:
        steps = [
            {"name": s.name, "ms": round(s.ms, 2), **({"error": s.error} if s.error else {})}
            for s in trial.steps
        ]
        _say(json.dumps({"ok": trial.ok, "url": url, "steps": steps}))
    else:
        for step in trial.steps:
            _say(f"{step.name:<14} {step.ms:9.1f} ms" + (f"  failed: {step.error}" if step.error else ""))
        total = sum(step.ms for step in trial.steps)
        _say(f"{'ok' if trial.ok else 'failed':<14} {total:9.1f} ms  {url}")
    sys.exit(0 if trial.ok else 1)


def _throw_away_users() -> list[tuple[str, str | None]]:
    """Return a caller and a callee with random ids, and with tokens if the environment and ``.env`` require them."""
    config, some = load(AuthSettings), new_id()[:8]
    names = (f"probe-caller-{some}", f"probe-callee-{some}")
    needed = config.auth_mode == "jwt"
    return [(name, dev_tokens.mint(config, name, PROBE_TOKEN_SECONDS) if needed else None) for name in names]


def _say(line: str) -> None:
    print(line, flush=True)
