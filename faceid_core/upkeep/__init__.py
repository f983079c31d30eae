"""Maintenance of a store: verify, garbage collection, erasure, and upkeep of the tables."""
