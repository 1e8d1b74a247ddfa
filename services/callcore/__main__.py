"""``python -m services.callcore``"""

from services.callcore.app import start
from services.callcore.settings import Settings
from shared.service.runner import run

if __name__ == "__main__":
    run("callcore", Settings, start)
