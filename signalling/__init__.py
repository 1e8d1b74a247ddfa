"""Run and watch a system from the command line; generate its docs."""
