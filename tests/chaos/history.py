"""What clients saw, as one list of records in the order in which they happened."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that a client did or saw.

    ``what``: ``joined`` (``resumed`` is ``None`` for the first time), ``asked``, ``answered``, ``heard``, or
    ``status`` (seen at the very end, of the user itself). ``n``: the number of a relay, which only grows within a
    call and a direction.
    """

    at: float
    user: str
    what: str
    event: str = ""
    call: str = ""
    n: int | None = None
    ok: bool | None = None
    """Of an answer: whether it was good. ``None`` where the answer says that the relay still waits."""
    code: str = ""
    by: str = ""
    reason: str = ""
    seq: int = 0
    session: str = ""
    resumed: bool | None = None
    in_call: bool = False


def save(records: Iterable[Record], file: Path) -> None:
    """Write one record a line, without what is not set."""
    with file.open("w") as out:
        for record in records:
            said = {key: value for key, value in asdict(record).items() if value not in (None, "", 0, False)}
            for key in ("resumed", "ok"):
                if getattr(record, key) is False:
                    said[key] = False
            if record.n is not None:
                said["n"] = record.n
            out.write(json.dumps(said) + "\n")


def load(file: Path) -> list[Record]:
    """Read what :func:`save` has written."""
    return [Record(**{"at": 0.0, **json.loads(line)}) for line in file.read_text().splitlines()]
