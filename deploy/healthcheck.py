"""Whether the service in this container is alive: exit status 0 if ``/healthz`` answers 200, 1 otherwise."""

import http.client
import os
import sys


def alive(port: int) -> bool:
    """Ask once, for two seconds at most."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(int(os.environ["HEALTH_PORT"])) else 1)
