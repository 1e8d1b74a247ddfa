"""Which limits the services of a cluster say were hit, and how often."""

import json
from collections import Counter
from pathlib import Path


def limits_hit(folder: Path) -> Counter[str]:
    """Limit → how often, by all logs in ``folder``."""
    found: Counter[str] = Counter()
    for log in folder.glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if '"limits hit"' in line:
                found.update(json.loads(line)["limits"])
    return found
