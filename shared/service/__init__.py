"""A service process: settings, start and stop, health, process metrics."""
