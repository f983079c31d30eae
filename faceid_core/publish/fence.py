"""A publication that no erasure slips past, however long the process is stopped between a look and a write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from faceid_core.run.state import Run
from faceid_core.store.tombstone import reopen
from faceid_core.tables import Tables
from faceid_core.upkeep.erase import refuse_erased
from faceid_core.upkeep.tables import erase_rows


def publish_fenced(run: Run, rows: Callable[[], Mapping[str, pa.Table]]) -> None:
    """Write a run's rows; those of identities that are erased by then are removed, and the rest is written again.

    Args:
        night: whose rows these are.
        rows: makes them from the accounts as they stand, without people who are refused as erased.

    Raises:
        ContractError: if a table breaks its contract.
        StoreError: if the storage fails.
    """
    while True:
        Tables(run.store).publish(run.run_id, rows())
        late = refuse_erased(run)
        if not late:
            return
        for key, stage_keys in late.items():
            # First, should this process be killed; and versions in a bucket are for the erasure to remove.
            reopen(run.store, key)
            erase_rows(run.store, key, stage_keys, unnamed_age=None, versions=False)
