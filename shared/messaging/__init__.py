"""Messaging between services: requests, mailboxes, membership, event log, timers."""
