"""Relays: routing to the peer, in order, and acknowledgement to the gateways."""
