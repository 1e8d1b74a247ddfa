"""Wrap the private parts of nats-py that this program uses; no other module uses them.

A test (tests/unit/shared/test_compat.py) fails with the name of each attribute that an upgrade of nats-py takes away.
"""
