"""Watching a running system over NATS: monitor, tail, history; and the probe, which comes through the front door."""
