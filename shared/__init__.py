"""What the three services have in common: the wire, the bus, and how a process starts and stops."""
