"""Asks the registries whether anything that is locked here is known to be vulnerable: ``make audit``.

Exit status 1 if one says so. A registry that does not answer is reported and fails nothing: whether the code is
right does not depend on who can be reached.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = tuple(f"requirements/{name}.txt" for name in ("run", "build", "dev", "mutants", "bench", "node"))
NODE = ("web/client", "tests/e2e/js", "bench/node", "docs/asyncapi")
SECONDS = 120

ACCEPTED: dict[str, str] = {}
"""Id of a vulnerability → why it does not concern us, and until when that is to be believed."""


class NoAnswer(Exception):
    """The registry did not say; the text is what was heard instead."""


class Report(NamedTuple):
    """What is known to be vulnerable, a line each, and which packages nothing was said about."""

    found: list[str]
    unknown: list[str]


def python(answer: str) -> Report:
    """What ``pip-audit -f json`` says. Raises :class:`NoAnswer`."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise NoAnswer("no report") from None
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", ())
        if not ACCEPTED.keys() & {flaw["id"], *flaw.get("aliases", ())}
    ]
    return Report(found, [package["name"] for package in packages if "skip_reason" in package])


def node(answer: str) -> Report:
    """What ``npm audit --json`` says. Raises :class:`NoAnswer`."""
    try:
        vulnerable = json.loads(answer)["vulnerabilities"]
    except (ValueError, KeyError, TypeError):
        raise NoAnswer("no report") from None
    found = []
    for name, flaws in sorted(vulnerable.items()):
        for flaw in flaws["via"]:
            if isinstance(flaw, str):
                continue  # another package of this list
            id_ = str(flaw.get("url", "")).rpartition("/")[2] or str(flaw.get("source"))
            if id_ not in ACCEPTED:
                found.append(f"{name} {flaw.get('range')}: {id_}, {flaw.get('severity')}")
    return Report(found, [])


def ask(command: list[str], folder: Path) -> tuple[str, str]:
    """What a command prints, and what it complains about. Raises :class:`NoAnswer`."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {SECONDS} s") from None
    except OSError as error:
        raise NoAnswer(str(error)) from None
    return done.stdout, done.stderr.strip()


def audit(what: str, command: list[str], folder: Path, read: Callable[[str], Report]) -> bool:
    """Say what is known about a lock file; whether it is all right as far as anybody says."""
    errors = ""
    try:
        answer, errors = ask(command, folder)
        report = read(answer)
    except NoAnswer as error:
        last = errors.splitlines()[-1][:200] if errors else ""
        print(f"audit: {what}: NOT ASKED: {error}{f' ({last})' if last else ''}")
        return True
    for line in report.found:
        print(f"audit: {what}: VULNERABLE: {line}")
    if report.unknown:
        some = ", ".join(report.unknown[:3]) + (", …" if len(report.unknown) > 3 else "")
        print(f"audit: {what}: NOT ASKED: about {len(report.unknown)} packages ({some})")
    elif not report.found:
        print(f"audit: {what}: nothing known")
    return not report.found


def main() -> int:
    """Ask about each lock file."""
    pip_audit = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner=off",
    ]
    # Node may have come as a wheel into the environment that runs this.
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    good = [audit(lock, [*pip_audit, "-f", "json", "-r", lock], ROOT, python) for lock in PYTHON]
    good += [
        audit(f"{folder}/package-lock.json", ["npm", "audit", "--json"], ROOT / folder, node)
        for folder in NODE
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
