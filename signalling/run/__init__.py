"""``signalling up``: the whole system on one machine, with an embedded NATS server."""
