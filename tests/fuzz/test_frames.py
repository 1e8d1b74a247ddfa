"""The corpus, and changes of it for some seconds: the same ones in each run. ``make fuzz`` tries new ones."""

import os
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import corpus, mutate
from tests.support.relay_paths import read, try_both

CORPUS = corpus()
SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus(name: str) -> None:
    """By its name all is ``refused``, or the last frame takes the ``short`` or ``long`` way; others do as they may."""
    ends = try_both(CORPUS[name])
    if name.startswith("refused"):
        assert all(read(frame).message is None for frame in CORPUS[name]), ends
    if name.startswith("short"):
        assert ends[-1].endswith("short"), ends
    if name.startswith("long"):
        assert not [end for end in ends if end.endswith("short")] and read(CORPUS[name][-1]).message, ends


@settings(deadline=None, max_examples=400, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_changes_of_the_corpus(chance: random.Random) -> None:
    """By Hypothesis, which makes a failure as small as it can."""
    try_both(mutate(list(CORPUS.values()), chance))


def test_changes_of_the_corpus_for_a_while() -> None:
    """By numbers. The seed is in the failure."""
    chance, seeds = random.Random(SEED), list(CORPUS.values())
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        frames = mutate(seeds, chance)
        try:
            try_both(frames)
        except Exception as error:
            error.add_note(f"seed {SEED}, frames {frames!r}")
            raise
