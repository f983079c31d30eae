"""The faceid library: everything a run does to one person, without an orchestrator."""

__version__ = "0.2.0"
