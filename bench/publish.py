"""Write a run into ``docs/performance.md``, ``docs/figures.json`` and ``docs/scale.md``.

    python -m bench.publish

The run has to have all modes of the benchmark, growth and footprint: ``make figures`` does all of it.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import capacity, scale
from bench.blocks import filled
from bench.growth_table import Step, table

OUT = Path("bench/out")
PERFORMANCE = scale.REPOSITORY / "docs" / "performance.md"


def medians(bench: dict[str, Any], server: str = "ours") -> dict[str, dict[str, float]]:
    """Return mode → figure → its median over the rounds of one server."""
    found = {}
    for mode, rounds in bench["results"].items():
        measured = [figures for figures in rounds[server] if figures is not None]
        keys = measured[0].keys() if measured else ()
        found[mode] = {key: round(statistics.median(each[key] for each in measured), 4) for key in keys}
    return found


def figures(bench: dict[str, Any], growth: dict[str, Any], footprint: dict[str, Any]) -> dict[str, Any]:
    """Return the figures for :mod:`bench.scale`."""
    return {
        "began": bench["began"],
        "machine": bench["machine"],
        "bench": medians(bench),
        "growth": [{key: step[key] for key in ("calls", "idle", "rest")} for step in growth["steps"]],
        "sweep_seconds": float(growth["asked"]["seconds"]),
        "footprint": footprint,
    }


def main() -> int:
    """Write everything, or print what is missing."""
    try:
        bench, growth, footprint = (
            json.loads((OUT / f"{name}.json").read_text()) for name in ("bench", "growth", "footprint")
        )
        run = (OUT / "bench.md").read_text().strip()
    except FileNotFoundError as missing:
        print(f"publish: {missing.filename} is missing: make figures", file=sys.stderr)
        return 1
    steps = [Step(**step) for step in growth["steps"]]
    about = growth["machine"].get("commit", "")
    grown = f"{growth['began']}, commit {about}.\n\n{table(steps)}"
    PERFORMANCE.write_text(filled(PERFORMANCE.read_text(), {"run": run, "growth": grown}))
    found = figures(bench, growth, footprint)
    scale.FIGURES.write_text(json.dumps(found, indent=1) + "\n")
    blocks = scale.tables(capacity.read(found), capacity.Assumptions())
    scale.PAGE.write_text(filled(scale.PAGE.read_text(), blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
