"""What the clients of the benchmark send."""

import json

import pytest

from bench import payloads


def test_sizes_are_what_the_docs_say() -> None:
    assert len(payloads.candidate()["candidate"]) == 150
    assert len(payloads.description("offer")["sdp"]) == 4096


@pytest.mark.parametrize("number", [0, 7, 999_999])
def test_the_number_of_a_candidate_is_found_in_its_frame_and_changes_no_size(number: int) -> None:
    frame = b"42" + json.dumps(["ice:candidate", {"candidate": payloads.candidate(number)}]).encode()
    assert payloads.number_of(frame) == number
    assert len(payloads.candidate(number)["candidate"]) == 150
