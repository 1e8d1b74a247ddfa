"""List the NATS users of ``deploy/nats/accounts.conf``, and generate passwords for one run."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("gateway", "callcore", "presence")
POLICY = "policy"
"""User of the policy service, which the operator may run."""
MONITOR = "monitor"
SYSTEM = "system"
CLUSTER = "cluster"
"""User by which the servers of a cluster connect to each other."""
ALL = (*SERVICES, POLICY, MONITOR, SYSTEM, CLUSTER)

_REPOSITORY = Path(__file__).resolve().parent.parent / "deploy" / "nats" / "accounts.conf"
_INSTALLED = Path(__file__).with_name("accounts.conf")
ACCOUNTS = _INSTALLED if _INSTALLED.exists() else _REPOSITORY
"""Permissions of each user. A wheel contains this file beside this module."""


def variable(user: str) -> str:
    """Return the environment variable from which nats-server takes a user's password."""
    return f"NATS_PASSWORD_{user.upper()}"


def new_password() -> str:
    """Return a random password that nats-server does not reinterpret: letters and digits, a letter first."""
    return f"p{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Passwords:
    """Stores the passwords of one run in files that only this user can read: NATS user → file."""

    files: dict[str, Path]

    @classmethod
    def new(cls, folder: Path) -> "Passwords":
        """Generate passwords in ``folder``; existing ones are replaced."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        passwords = cls.there(folder)
        for file in passwords.files.values():
            file.unlink(missing_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(new_password())
        return passwords

    @classmethod
    def there(cls, folder: Path) -> "Passwords":
        """Return the passwords stored in ``folder``."""
        return cls({user: folder / user for user in ALL})

    def of(self, user: str) -> str:
        """Return the password of a user."""
        return self.files[user].read_text()

    def server_env(self) -> dict[str, str]:
        """Return the environment of a nats-server of this run."""
        return {variable(user): self.of(user) for user in ALL}

    def client_env(self, user: str) -> dict[str, str]:
        """Return the environment of a process that connects as ``user``."""
        return {"NATS_USER": user, "NATS_PASSWORD_FILE": str(self.files[user])}
