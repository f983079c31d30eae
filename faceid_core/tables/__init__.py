"""The tables of all nights: Delta Lake in the store, a catalogue that shows a run's tables together, and SQL.

`write` adds rows that are not there yet, `catalogue` names the versions that readers see, `query` reads
exactly those. `docs/design/tables.md` explains the choices.
"""

from __future__ import annotations

from .catalogue import Catalogue
from .query import Tables

__all__ = ["Catalogue", "Tables"]
