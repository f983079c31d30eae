"""A link in the place of any folder or file of a filled store: an erasure never misses what lies behind it."""

from __future__ import annotations

import os
import shutil
from functools import partial

import pytest

from faceid_core.errors import StoreError
from faceid_core.store import layout, open_store
from faceid_core.tables import Tables
from faceid_core.upkeep.erase import COMPLETE, SWEPT, Receipt, erase
from faceid_core.upkeep.gc import collect
from faceid_core.upkeep.verify import LINK, verify
from tests.code.test_erase import GONE, KEY, SECRET, fill, leftovers, rows_of
from tests.code.test_store_links import contents, replace_by_link
from tests.helpers.fault_counts import FaultRecord

KINDS = ("outside", "inside")


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_an_erasure_misses_nothing_behind_a_link_at_any_level(tmp_path):
    original = fill(open_store(str(tmp_path / "original")), tmp_path, days=(1,))
    rows = rows_of(original.run, "r2", 2)
    record = FaultRecord("links-in-a-filled-store")
    places = levels(original.store.root)
    # By number: names of runs and table files are others each time.
    for point in record.left([f"{kind} {number}" for kind in KINDS for number in range(len(places))]):
        kind, level = point.split()[0], places[int(point.split()[1])]
        trial = tmp_path / "trial"
        shutil.copytree(original.store.root, trial / "store")
        store, outside = open_store(str(trial / "store")), trial / "outside"
        replace_by_link(store.root / level, outside, kind)
        behind = contents(outside)
        assert [finding.scope for finding in verify(store).findings if finding.kind == LINK] == [level]
        acts = (
            partial(Tables(store).publish, "r2", rows),
            partial(collect, store, delete=True),
            partial(erase, store, SECRET, GONE, longest_lease=0.0),
        )
        refused = sum(is_refused(act, level) for act in acts)
        assert contents(outside) == behind
        stone = store.root / layout.tombstone(KEY)
        if stone.is_file() and Receipt.from_bytes(stone.read_bytes(), KEY).state in (SWEPT, COMPLETE):
            # Records of runs and the tombstone keep the key, wherever they lie.
            looked = () if level.startswith(("runs", "tombstones")) else (store.root, outside)
            assert [left for folder in looked for left in leftovers(folder, GONE, KEY)] == []
        # With the real one in the link's place, as the message says, the same command ends the erasure.
        os.remove(store.root / level)
        moved = outside / "real" if kind == "outside" else (store.root / level).with_name("moved")
        if moved.exists():  # one that was moved within the person's own folder is erased already
            os.rename(moved, store.root / level)
        assert erase(store, SECRET, GONE, longest_lease=0.0).state == COMPLETE
        assert leftovers(store.root, GONE, KEY) == [] and verify(store).sound
        record.add(point, faults=1, runs=1, compared=refused)
        shutil.rmtree(trial)


def levels(root) -> list[str]:
    """Every folder of a store, and of each folder one file."""
    found = []
    for folder, folders, files in os.walk(root):
        shown = os.path.relpath(folder, root)
        found += [os.path.normpath(os.path.join(shown, name)) for name in (*folders, *sorted(files)[:1])]
    return sorted(name for name in found if not name.startswith(".tmp"))


def is_refused(act, level: str) -> bool:
    """Whether an act ends with the link's name; any other error fails the test."""
    try:
        act()
    except StoreError as error:
        assert f"{level} is a symbolic link" in str(error)
        return True
    return False
