"""Relays in callcore: routing to the peer, in order, and acknowledgement to gateways."""
