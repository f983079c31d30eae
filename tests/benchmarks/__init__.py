"""Benchmarks: each a ratio or a bar, measured side by side in one run by `python -m tests.benchmarks`."""
