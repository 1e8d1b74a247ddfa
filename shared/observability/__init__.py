"""Logs, metrics and traces of every service."""
