"""Calls: set-up, transitions by compare-and-set, ownership, limits, and reconciliation."""
