"""Socket.IO and HTTP: the server under the handlers, polling, sending, closing and draining."""
