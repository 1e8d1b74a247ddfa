"""The operator's command, and the generators of the docs."""
