"""Runs: from a command's options to a run directory, and from it to results again."""
