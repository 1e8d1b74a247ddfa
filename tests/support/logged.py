"""What the program logs, however the tests before have configured logging."""

import logging
import sys
from types import ModuleType

import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict

PACKAGES = ("services", "shared", "signalling")
_ERRORS = ("error", "critical")


class Logged:
    """Records what the loggers of modules are told, and what libraries tell the standard library's."""

    def __init__(self, library: pytest.LogCaptureFixture) -> None:
        self._library = library
        self._capture = LogCapture()

    @property
    def entries(self) -> list[EventDict]:
        """Structured lines, each with ``event`` and ``log_level``."""
        return self._capture.entries

    def replace(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        """Record what ``module`` logs from now on, instead of writing it."""
        logger = structlog.wrap_logger(
            None,
            processors=[structlog.processors.format_exc_info, self._capture],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
            cache_logger_on_first_use=False,
        )
        monkeypatch.setattr(module, "log", logger)

    def count(self, event: str) -> int:
        """How many lines have ``event`` in their text."""
        return sum(event in line["event"] for line in self.entries)

    def errors(self) -> list[str]:
        """Lines logged as errors or with a traceback, of the program and of libraries."""
        own = [repr(line) for line in self.entries if line["log_level"] in _ERRORS or "exception" in line]
        library = [r for r in self._library.records if r.levelno >= logging.ERROR or r.exc_info]
        return own + [record.getMessage() for record in library]

    def text(self) -> str:
        """All that was logged, with tracebacks and with the arguments that libraries gave."""
        arguments = [repr(record.__dict__) for record in self._library.records]
        return "\n".join([*map(repr, self.entries), self._library.text, *arguments])

    def clear(self) -> None:
        """Forget what was logged so far."""
        self.entries.clear()
        self._library.clear()


def modules() -> list[ModuleType]:
    """The modules of the program that have a logger."""
    own = [module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES]
    return [
        module for module in own if isinstance(getattr(module, "log", None), structlog.typing.BindableLogger)
    ]
