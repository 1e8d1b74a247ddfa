"""Offers, answers and candidates on their way to callcore: sent once, in order, acknowledged."""
