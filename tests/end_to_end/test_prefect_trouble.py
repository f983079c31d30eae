"""Trouble under Prefect: its failures are not the night's, and a chunk that crashes takes nobody else down."""

from __future__ import annotations

from faceid_core.night.reporter import LogReporter
from tests.end_to_end.test_inline_folder import outcomes


def test_artifacts_that_cannot_be_left_cost_no_result(small, people, tmp_path, prefect_server, monkeypatch):
    import flows.nightly
    import tasks.stage_tasks

    def unreachable(**_):
        raise ConnectionError("the Prefect API does not answer")

    for module in (flows.nightly, tasks.stage_tasks):
        monkeypatch.setattr(module, "create_table_artifact", unreachable)
    config = small(str(tmp_path / "store"), people, executor="inline")
    night, ended = flows.nightly.run_from_here(config, LogReporter())
    assert ended.exit_status == 0 and outcomes(night) == {"ann": "done", "bob": "done"}
