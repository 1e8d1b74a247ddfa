"""Presence: sessions of users, gateway leases, grace periods, status."""
