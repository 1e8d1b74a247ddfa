"""The end-to-end tests of the protocol through the proxy, over websockets and polling, on two of each service."""

import pytest

from tests.e2e.test_protocol_call import (
    test_accept_tells_both,
    test_calls_follow_each_other,
    test_end_by_the_callee_while_ringing_rejects,
    test_glare_makes_one_call_accepted_at_once,
    test_initiate_rings_the_callee,
)
from tests.e2e.test_protocol_devices import (
    test_a_device_that_joins_while_its_user_is_rung_rings,
    test_all_devices_ring_and_the_first_to_accept_wins,
)
from tests.e2e.test_protocol_errors import (
    test_a_large_offer_within_the_bound_passes,
    test_bad_request_names_the_field,
    test_not_authenticated_before_join,
)
from tests.e2e.test_protocol_join import (
    test_join_again_with_the_device_replaces_its_socket,
    test_join_is_answered_with_joined,
    test_status_follows_the_user,
)
from tests.e2e.test_protocol_media import (
    test_early_media_reaches_every_ringing_device,
    test_offer_answer_and_candidates_reach_the_peer_unchanged,
    test_renegotiation_goes_on_as_long_as_the_call_lives,
    test_what_follows_an_initiate_at_once_is_not_lost,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

__all__ = [
    "test_a_device_that_joins_while_its_user_is_rung_rings",
    "test_a_large_offer_within_the_bound_passes",
    "test_accept_tells_both",
    "test_all_devices_ring_and_the_first_to_accept_wins",
    "test_bad_request_names_the_field",
    "test_calls_follow_each_other",
    "test_early_media_reaches_every_ringing_device",
    "test_end_by_the_callee_while_ringing_rejects",
    "test_glare_makes_one_call_accepted_at_once",
    "test_initiate_rings_the_callee",
    "test_join_again_with_the_device_replaces_its_socket",
    "test_join_is_answered_with_joined",
    "test_not_authenticated_before_join",
    "test_offer_answer_and_candidates_reach_the_peer_unchanged",
    "test_renegotiation_goes_on_as_long_as_the_call_lives",
    "test_status_follows_the_user",
    "test_what_follows_an_initiate_at_once_is_not_lost",
]
