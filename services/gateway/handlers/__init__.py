"""Handlers of client events: dispatch each event, and answer it."""
