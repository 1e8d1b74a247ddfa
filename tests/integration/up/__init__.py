"""``signalling up`` as its user has it: as a process, with everything that it starts."""
