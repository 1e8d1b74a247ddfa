"""Share between the three services: the wire, the bus, and how a process starts and stops."""
