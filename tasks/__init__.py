"""Thin Prefect tasks, and the Ray actor pool that they drive."""

from faceid_core.telemetry import refuse_telemetry

refuse_telemetry()  # Ray's actors on other machines have an environment of their own
