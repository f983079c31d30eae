"""One run: its identities, what is cached, what has to be computed, and what became of each identity.

Knows no orchestrator. `open_run` makes a `Run`; flows look its stages up and execute the misses with an executor that
they own. A dry run is a run of which only the lookups happen.
"""
