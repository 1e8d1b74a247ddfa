"""Changes of the source that break a promise, each with the test that notices it."""
