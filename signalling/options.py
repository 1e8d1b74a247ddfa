"""Share options between commands."""

import click

from shared.nats import urls
from shared.service.settings import EXIT_USAGE


class WrongOption(click.ClickException):
    """Raised if the value of an option is wrong; shown in one line."""

    exit_code = EXIT_USAGE


def checked_nats(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Check the addresses of ``--nats``. Raises :class:`WrongOption`, with no password in its text."""
    try:
        return urls.checked(value) if value is not None else None
    except ValueError as error:
        raise WrongOption(f"--nats: {error}") from None
