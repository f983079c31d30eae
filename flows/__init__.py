"""Wiring only: the nightly flow, its sub-flow per stage, the deployment and the command line."""

from faceid_core.telemetry import refuse_telemetry

# Every process of ours begins here or in `tasks`: the command, what `serve` or a worker starts, Ray's actors.
refuse_telemetry()
