"""Packets and payloads of the client protocol. No I/O."""
