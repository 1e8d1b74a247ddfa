"""Check that the service in this container is alive: exit status 0 if ``/healthz`` answers 200, 1 otherwise.

It runs every few seconds in every container, so it imports next to nothing.
"""

import os
import socket
import sys

SECONDS = 2.0


def alive(port: int) -> bool:
    """Return True if ``/healthz`` answers 200 within two seconds."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if alive(int(os.environ["HEALTH_PORT"])) else 1)
