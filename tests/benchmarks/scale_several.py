"""Many runs in one store's tables, in a process of its own.

`python -m tests.benchmarks.scale_several STORE RUNS PEOPLE` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from faceid_core.store import open_store
from faceid_core.tables import Tables
from faceid_core.tables.files import file_sizes
from faceid_core.tables.write import DeltaPlace

from .table_nights import night, run_name


def publish_runs(address: str, runs: int, people: int) -> dict[str, Any]:
    """Publish them, all their results new; what the first and the last took, and what there is in the end."""
    store = open_store(address)
    tables, rows, seconds = Tables(store), 0, []
    for number in range(runs):
        made = night(number, people)
        rows += made["image_metrics"].num_rows
        before = time.process_time()
        tables.publish(run_name(number), made)
        seconds.append(time.process_time() - before)
    files = DeltaPlace(store).read("image_metrics", file_sizes) or {}
    sizes = list(files.values())
    return {"rows": rows, "files": len(sizes), "bytes": sum(sizes), "first": seconds[0], "last": seconds[-1]}


if __name__ == "__main__":
    print(json.dumps(publish_runs(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
