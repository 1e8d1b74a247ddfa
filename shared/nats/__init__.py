"""NATS: the connection, requests over it, key-value buckets, streams."""
