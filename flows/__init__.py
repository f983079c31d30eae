"""Wiring only: the nightly flow, its sub-flow per stage, the deployment and the command line."""
