"""Reading ``/metrics`` as Prometheus does."""

from typing import NamedTuple

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


class Scraped(NamedTuple):
    """What an instance said."""

    families: tuple[Metric, ...]

    def value(self, sample: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 if there is none."""
        return sum(
            s.value
            for family in self.families
            for s in family.samples
            if s.name == sample and labels.items() <= s.labels.items()
        )

    def names(self) -> set[str]:
        """The metrics of ours, as they are declared."""
        return {
            f"{family.name}_total" if family.type == "counter" else family.name
            for family in self.families
            if family.name.startswith("signalling_")
        }

    def labels(self) -> set[tuple[str, str, str]]:
        """(metric, label, value) of all samples."""
        return {
            (family.name, name, value)
            for family in self.families
            for sample in family.samples
            for name, value in sample.labels.items()
        }


async def scrape(url: str) -> Scraped:
    """What ``GET url`` says."""
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return Scraped(tuple(text_string_to_metric_families(await answer.text())))
