"""A command in a pseudo-terminal, and what a person would see there."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time

import pyte

from tests.support.service_process import REPOSITORY


class Terminal:
    """Runs ``command`` on a screen of ``columns`` × ``rows``."""

    def __init__(
        self, command: list[str], env: dict[str, str], *, columns: int = 120, rows: int = 40
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**env, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65_536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                # pyte takes the private CSI sequences with > and = for plain ones.
                self._stream.feed(data)

    @property
    def text(self) -> str:
        """The screen as it is now."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def until(self, *texts: str, gone: str | None = None, seconds: float = 20.0) -> str:
        """Wait until the screen has all of ``texts`` and not ``gone``; the screen."""
        end = time.monotonic() + seconds
        while True:
            text = self.text
            if all(each in text for each in texts) and (gone is None or gone not in text):
                return text
            assert time.monotonic() < end, f"not on the screen: {texts}, or still there: {gone}\n{text}"
            assert self.process.poll() is None, f"it has ended\n{text}"
            time.sleep(0.05)

    def press(self, keys: str, *texts: str) -> None:
        """Press the same again and again, a second apart, until the screen has all of ``texts``."""
        for _ in range(10):
            self.type(keys)
            end = time.monotonic() + 1
            while time.monotonic() < end:
                if all(each in self.text for each in texts):
                    return
                time.sleep(0.05)
        raise AssertionError(f"not on the screen: {texts}\n{self.text}")

    def close(self) -> None:
        """End it, if it has not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(5)
        self._reader.join(5)
        os.close(self._master)
