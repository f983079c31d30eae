"""Prefect tasks and what Prefect shows of a run, and the Ray pool."""

from faceid_core.telemetry import refuse_telemetry

refuse_telemetry()  # Ray's actors on other machines have an environment of their own
