"""Looks a machine over before the night: what is there, what is missing, what the night will take.

`finding` is what each check says; `machine`, `weights`, `storage`, `folder` and `expectation` hold the checks.
"""
