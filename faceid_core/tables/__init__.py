"""The tables of all runs: Delta Lake in the store, a catalog that shows a run's tables together, and SQL.

`write` adds rows that are not there yet, `catalog` names the versions that readers see, `query` reads
exactly those. `docs/design/tables.md` explains the choices.
"""

from __future__ import annotations

from .catalog import Catalog
from .query import Tables

__all__ = ["Catalog", "Tables"]
