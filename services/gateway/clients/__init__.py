"""Connected clients: which socket speaks for which session, and replies to their events."""
