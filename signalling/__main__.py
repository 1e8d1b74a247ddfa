"""``python -m signalling``: the command where it is not installed."""

from signalling.cli import main

main(prog_name="signalling")
