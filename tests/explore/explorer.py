"""Depth-first exploration of everything that can happen in a world, in every order, without doing anything twice.

A *step* is one operation on a bucket together with the code that runs from there to the next operation, or an event
of the world (an actor starts, an instance dies, time passes). A *state* is what the future depends on. A world cannot
be copied, so after each dead end its steps are repeated from the beginning.

Two reductions, both exact for the states that are reached and thus for everything that is checked in a state:

*State matching.* A coroutine is a function of what its operations returned. So the state of an actor is the set of
its operations with what each returned, and the state of a world is that of its actors plus what is stored, the clock
and what instances have in memory. From two equal states the same things can happen; only one is explored.

*Sleep sets* (P. Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996, chapters 5
and 6). Steps t and u that are independent lead to the same state in either order. After t has been explored from a
state, u is explored from it too, but t is not explored again after u: it "sleeps" until a step that depends on it.
Independence is not guessed from the code. Each step records its *footprint*: what it has read and written (entries of
buckets, the clock, an instance's memory and locks, the actors that ran), and two steps are dependent if one writes
what the other reads or writes. While t sleeps, only steps independent of it are taken, so its footprint stays what it
was when t was explored. Steps of one actor always depend on each other. Sleep sets alone skip steps, not states.
With state matching, a state may be reached again by a path that lets fewer steps sleep. Then the steps that slept
before and do not now are explored, as in Godefroid's algorithm.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Step = tuple[str, ...]
"""What happens, by name. The same step has the same name in every schedule."""
Footprint = Mapping[Hashable, str]
"""Resource → ``r``: read, ``w``: written, ``a``: added to, where the order of additions makes no difference."""


class Violation(AssertionError):
    """A world is in a state in which it must not be. ``schedule``: the steps that lead there."""

    def __init__(self, world: str, what: str, schedule: tuple[Step, ...]) -> None:
        steps = "\n".join("  " + " ".join(step) for step in schedule)
        super().__init__(f"{world}: {what}\nafter\n{steps}")
        self.what = what
        self.schedule = schedule


class World(Protocol):
    """What can be explored. It is made anew for each schedule and must do the same each time.

    Any method raises :class:`AssertionError` for a state in which the world must not be.
    """

    def steps(self) -> list[Step]:
        """What can happen next, always in the same order."""

    def take(self, step: Step) -> Footprint:
        """Let it happen."""

    def state(self) -> Hashable:
        """What the future depends on, and what the final check looks at."""

    def finish(self) -> None:
        """Nothing can happen any more: check what must be true in the end."""

    def close(self) -> None:
        """The world is not needed any more."""


@dataclass(slots=True)
class Count:
    """What an exploration came to."""

    states: int = 0
    steps: int = 0
    """Steps explored, without those that were repeated to get back to a state."""
    schedules: int = 0
    """Runs from the beginning to a state that was known, or to an end."""
    ends: int = 0
    """Different states in which nothing can happen any more."""
    deepest: int = 0
    seconds: float = 0.0

    def add(self, other: "Count") -> None:
        """Add what another exploration came to."""
        self.states += other.states
        self.steps += other.steps
        self.schedules += other.schedules
        self.ends += other.ends
        self.deepest = max(self.deepest, other.deepest)
        self.seconds += other.seconds


@dataclass(slots=True)
class _Frame:
    """A state on the current path: the steps to explore from it, the last one first, and those that sleep."""

    todo: list[Step]
    sleep: dict[Step, Footprint] = field(default_factory=dict)


class TooLarge(Exception):
    """The world has more states than were allowed."""


def reduces(name: str) -> bool:
    """Return True if sleep sets reach every state of the world of this name.

    Of worlds with an overtaken try they leave out two states in 2,780, for a reason that is not known: ADR 32.
    """
    return "overtaken" not in name


def explore(
    name: str, make: Callable[[], World], *, most: int | None = None, sleeping: bool | None = None
) -> Count:
    """Take every step from every state. Raises :class:`Violation`, or :class:`TooLarge` beyond ``most`` states.

    ``sleeping``: with sleep sets, or without, which takes longer; ``None``: with them where :func:`reduces` says so.
    """
    sleeping = reduces(name) if sleeping is None else sleeping
    begun = time.perf_counter()
    count = Count(schedules=1)
    asleep: dict[Hashable, frozenset[Step]] = {}
    path: list[Step] = []
    frames: list[_Frame] = []
    world = make()
    sleep: dict[Step, Footprint] = {}
    try:
        while True:
            # The world is in a state that was just reached, with ``sleep`` asleep.
            frames.append(_arrive(world, asleep, sleep, count))
            count.deepest = max(count.deepest, len(path))
            if most is not None and count.states > most:
                raise TooLarge(name)
            back = False
            while frames and not frames[-1].todo:
                frames.pop()
                if path:
                    path.pop()
                back = True
            if not frames:
                break
            if back:
                world.close()
                world = make()
                count.schedules += 1
                for done in path:
                    world.take(done)
            frame = frames[-1]
            step = frame.todo.pop()
            path.append(step)
            count.steps += 1
            footprint = world.take(step)
            if sleeping:
                sleep = {one: its for one, its in frame.sleep.items() if not dependent(its, footprint)}
                frame.sleep[step] = footprint
    except AssertionError as error:
        raise Violation(name, str(error).partition("\n")[0], tuple(path)) from error
    finally:
        world.close()
    count.seconds = time.perf_counter() - begun
    return count


def _arrive(
    world: World, asleep: dict[Hashable, frozenset[Step]], sleep: dict[Step, Footprint], count: Count
) -> _Frame:
    """Decide what is to be explored from the state of ``world``; check it if it is an end."""
    state = world.state()
    known = asleep.get(state)
    if known is None:
        count.states += 1
        asleep[state] = frozenset(sleep)
        steps = world.steps()
        if not steps:
            count.ends += 1
            world.finish()
        return _Frame([step for step in reversed(steps) if step not in sleep], sleep)
    awake = known - sleep.keys()
    if awake:
        asleep[state] = known & sleep.keys()
    return _Frame(sorted(awake), {step: its for step, its in sleep.items() if step in known})


def dependent(one: Footprint, other: Footprint) -> bool:
    """True if the order of two steps with these footprints can make a difference."""
    if len(other) < len(one):
        one, other = other, one
    for resource, how in one.items():
        its = other.get(resource)
        if its is not None and (how != its or how == "w"):
            return True
    return False
