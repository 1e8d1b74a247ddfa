"""Run the command by ``python -m signalling`` where it is not installed."""

from signalling.cli import main

main(prog_name="signalling")
