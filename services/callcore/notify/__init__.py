"""Notification of sessions about call events, and redelivery after an outage."""
