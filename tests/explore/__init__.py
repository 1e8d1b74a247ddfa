"""Exhaustive exploration of small worlds of call control and presence."""
