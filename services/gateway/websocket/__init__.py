"""Websocket connections under Engine.IO: reading, writing, keepalive."""
