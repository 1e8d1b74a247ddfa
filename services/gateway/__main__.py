"""``python -m services.gateway``"""

from services.gateway.app import start
from services.gateway.settings import Settings
from shared.service.runner import run

if __name__ == "__main__":
    run("gateway", Settings, start, once=True)
