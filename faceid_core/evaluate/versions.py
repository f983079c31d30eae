"""Versions of the code that asks the photographs' scorers; each enters the digests of its role."""

from __future__ import annotations

# Raise one when the same files would give other values: when crops, normalization or preprocessing change.
VERSIONS = {"recognizer": 1, "clip": 1, "attributes": 1}
