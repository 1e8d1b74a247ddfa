"""``signalling up`` with fake services: ``python -m tests.integration.up.fake_up <trace> [options of up]``."""

import sys

from signalling import cli

SERVICES = ("gateway", "callcore", "presence")

if __name__ == "__main__":
    trace, *options = sys.argv[1:]
    commands = {name: [sys.executable, "-m", "tests.integration.up.fake", name, trace] for name in SERVICES}
    cli.main(["up", *options], obj=commands)
