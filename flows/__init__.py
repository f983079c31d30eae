"""The command line, and the Prefect flows with their deployments."""

from faceid_core.telemetry import refuse_telemetry

# Each process imports `flows` or `tasks` first: the command, processes of `serve` or a worker, Ray's actors.
refuse_telemetry()
