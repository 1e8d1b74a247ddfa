"""Log what python-socketio and python-engineio log, at levels that fit."""

import logging
from typing import Any


class LibraryLogger(logging.LoggerAdapter[logging.Logger]):
    """Log errors as debug messages: they are caused by clients. Drop all other messages, which contain payloads.

    Messages with a traceback stay errors: with checked input they are defects.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log errors of the library as debug, those with a traceback as errors, and nothing else."""
        if kwargs.get("exc_info"):
            self.logger.error(msg, *args, **kwargs)
        elif level >= logging.ERROR:
            self.logger.debug(msg, *args)
