"""Observe a running system over NATS (monitor, tail, history), and probe it as a client."""
