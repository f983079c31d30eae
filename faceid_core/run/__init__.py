"""One night: who takes part, what is cached, what has to run, what became of everybody, and what is published.

Knows no orchestrator: flows drive a `Run` stage by stage, with an executor that they own.
"""
