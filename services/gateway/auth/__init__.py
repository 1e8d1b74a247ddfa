"""Authentication of clients: tokens, signing keys, TURN credentials."""
