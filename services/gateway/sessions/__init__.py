"""Sessions of this gateway: join, leave, resume, and delivery of events to their sockets."""
