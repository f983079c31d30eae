"""Looks a machine over before the run: what is there, what is missing, what the run will take.

`finding` is what each check says; `machine`, `weights`, `storage`, `folder` and `expectation` hold the checks.
"""
