"""Limits on what clients may do: rates, strikes, connections, admission under overload."""
