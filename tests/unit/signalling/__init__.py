"""The pure parts of the operator's command."""
