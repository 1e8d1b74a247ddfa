"""Random faults under real calls, and a checker of what clients saw."""
