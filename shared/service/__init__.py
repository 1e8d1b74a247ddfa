"""Run a service process: settings, start and stop, health, process metrics."""
