"""docs/relay-wire-format.md says what the code does: its flags, its examples, its limits."""

import re
from pathlib import Path

import pytest

from services.gateway.relay import send_buffer, send_window
from shared import subjects
from shared.contracts import relays
from shared.subjects import RelayFlags

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "relay-wire-format.md").read_text()
WORDS = " ".join(PAGE.split())
"""The page in one line: a sentence may be wrapped anywhere."""
EXAMPLES: dict[str, str] = dict(re.findall(r"^\| `(receipt\.[^`]*)` \| (.*) \|$", PAGE, re.MULTILINE))


def test_the_table_of_flags_is_the_enumeration() -> None:
    rows = re.findall(r"^\| `([a-z])` \| `([A-Z_]+)` \|", PAGE, re.MULTILINE)
    parsed = {name: subjects.parse_flags(f"0{letter}")[1] for letter, name in rows}
    assert parsed == {flag.name: flag.value for flag in RelayFlags}
    everything = sum(flag.value for flag in RelayFlags)
    text = subjects.ReceiptSubject("g", "s", 1, 0, everything).flags_text
    assert "0" + "".join(letter for letter, _ in rows) == text, "in the order of the wire"


@pytest.mark.parametrize("reply", EXAMPLES)
def test_each_example_is_a_reply_subject(reply: str) -> None:
    receipt = subjects.receipt_of(reply)
    assert subjects.receipt(*receipt) == reply
    meaning = EXAMPLES[reply]
    assert ("acknowledgement" in meaning) == bool(receipt.flags & RelayFlags.WANTS_RECEIPT)
    assert ("three candidates" in meaning) == (receipt.more == 2)
    assert ("retransmitted" in meaning) == (receipt.attempt > 0)
    assert (meaning == "its delivery") == bool(receipt.flags & RelayFlags.DELIVERY)


def test_the_limits_are_those_of_the_code() -> None:
    assert f"At most {relays.TOGETHER_MAX} relays and {relays.TOGETHER_BYTES // 1024} KiB" in WORDS
    for seconds, text in (
        (send_window.RESEND_SECONDS, "nothing for {:g} s | retransmits"),
        (send_buffer.GIVE_UP_SECONDS, "nothing for {:g} s | gives the relay up"),
        (send_window.AGAIN_SECONDS, "at most every {:g} s"),
        (send_window.AGAIN_SECONDS, "stays silent for {:g} s"),
    ):
        assert text.format(seconds) in WORDS


def test_names_in_code_type_exist() -> None:
    for name in re.findall(r"`SendWindow\.(\w+)`|SendWindow\.(\w+)", PAGE):
        assert hasattr(send_window.SendWindow, name[0] or name[1])
