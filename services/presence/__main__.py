"""``python -m services.presence``"""

from services.presence.app import start
from services.presence.settings import Settings
from shared.service.runner import run

if __name__ == "__main__":
    run("presence", Settings, start)
