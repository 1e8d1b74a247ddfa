"""A logger for python-socketio and python-engineio."""

import logging
from typing import Any


class LibraryLogger(logging.LoggerAdapter[logging.Logger]):
    """What clients do wrong is no error of ours, and payloads do not go into logs.

    Only what they log with a traceback stays an error: with checked input that is a defect.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if kwargs.get("exc_info"):
            self.logger.error(msg, *args, **kwargs)
        elif level >= logging.ERROR:
            self.logger.debug(msg, *args)
