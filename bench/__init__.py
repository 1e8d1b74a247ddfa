"""Measure performance. Run these programs by hand; they are no tests."""
