"""Run the whole system on one machine, with an embedded NATS server, for ``signalling up``."""
