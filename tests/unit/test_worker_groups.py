"""Tests that share a system run on one worker of ``make test``."""

import pytest

from tests.support.worker_groups import group

OTHER = "tests/e2e/test_malformed.py::test_x[1x1x1]"
UP = "tests/integration/up/test_up.py::test_"


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("tests/unit/test_docs.py::test_a", "tests/unit/test_docs.py::test_b[1x1x1-x]", True),
        ("tests/unit/test_docs.py::test_a", "tests/unit/test_audit.py::test_a", False),
        ("tests/stack/test_calls.py::test_a[websocket]", "tests/stack/test_faults.py::test_b", True),
        ("tests/e2e/test_protocol_call.py::test_a[1x1x1-node-polling]", OTHER, True),
        ("tests/e2e/test_protocol_call.py::test_a[2x2x2x3-node-polling]", OTHER, False),
        ("tests/e2e/test_push.py::test_a", "tests/e2e/test_watch.py::test_b[polling]", True),
        ("tests/e2e/test_nats_away.py::test_a", "tests/e2e/test_crash.py::test_b[cc-1]", True),
        ("tests/e2e/test_resume.py::test_a", "tests/e2e/test_crash.py::test_b[cc-1]", False),
        (f"{UP}a[2]", f"{UP}a[15]", False),
    ],
)
def test_who_shares_a_worker(one: str, other: str, together: bool) -> None:
    assert (group(one) == group(other)) is together
