"""Metrics: sums that are divided once, equal to those of the official scripts."""
