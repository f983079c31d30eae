"""The same night twice at the same time on one store: one result, no damage, and no long piece of work done twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from faceid_core.stages.sharing import SHARED_STAGES
from faceid_core.store import open_store
from faceid_core.store.scopes import all_scopes
from faceid_core.store.verify import verify
from tests.end_to_end.conftest import people, small  # noqa: F401  (fixtures)
from tests.helpers.killed import night_in_a_child


@pytest.mark.exhaustive
def test_two_nights_that_share_a_store_end_with_one_result(small, people, tmp_path):  # noqa: F811
    config = small(str(tmp_path / "store"), people, run={"on_busy": "share"}, personalize={"slots": 1})
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: night_in_a_child(config), range(2))
    assert one.exit_code == two.exit_code == 0
    assert one.report["exit_status"] == two.report["exit_status"] == 0
    assert one.report["contents"] == two.report["contents"] and one.report["tables"] == two.report["tables"]
    assert set(one.report["outcomes"].values()) | set(two.report["outcomes"].values()) <= {"done", "cached"}
    store = open_store(str(tmp_path / "store"))
    assert verify(store).sound
    manifests = [key for scope in all_scopes(store) for key in scope.manifests]
    for stage in SHARED_STAGES:
        computed = sum(night.report["computed"].get(stage, 0) for night in (one, two))
        assert computed == sum(name == stage for name, _ in manifests), stage
    assert not [info.name for info in store.list("") if "/leases/" in info.name]
