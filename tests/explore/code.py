"""The modules of the services that a world runs: their own source, with the clock and the log of the explorer.

A *fault* is a change of that source, by which the exploration is tested.
"""

import importlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

_MODULES = {
    "call_setup": "services.callcore.calls.call_setup",
    "call_service": "services.callcore.calls.call_service",
    "store": "services.callcore.store",
    "reconciler": "services.callcore.calls.reconciler",
    "notifier": "services.callcore.notify.notifier",
    "handlers": "services.callcore.handlers",
    "join_service": "services.presence.join_service",
    "presence_handlers": "services.presence.handlers",
    "presence_store": "services.presence.store",
    "presence_notifier": "services.presence.notifier",
    "time_budget": "shared.messaging.time_budget",
}


class Change(NamedTuple):
    """One text of a module's source and what is there instead of it."""

    module: str
    """A key of the modules above."""
    was: str
    now: str


class Silent:
    """A log that nobody reads."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


def load(now_ms: Callable[[], int], changes: tuple[Change, ...] = ()) -> Any:
    """A namespace with a fresh copy of each module.

    Raises :class:`LookupError` if a text to be changed is not there exactly once: the fault has to be written anew.
    """
    loaded: dict[str, Any] = {}
    for short, name in _MODULES.items():
        source = inspect.getsource(importlib.import_module(name))
        for change in changes:
            if change.module == short:
                if source.count(change.was) != 1:
                    raise LookupError(f"{name} has {source.count(change.was)} times: {change.was}")
                source = source.replace(change.was, change.now)
        space: dict[str, Any] = {"__name__": name}
        exec(compile(source, f"<{name} explored>", "exec"), space)
        space["log"] = Silent()
        if "now_ms" in space:
            space["now_ms"] = now_ms
        loaded[short] = SimpleNamespace(**space)
        loaded[short].space = space  # what the functions of the module see as their globals
    for module in loaded.values():
        if "time_budget" in module.space:
            module.space["time_budget"] = loaded["time_budget"]
    return SimpleNamespace(**loaded)
