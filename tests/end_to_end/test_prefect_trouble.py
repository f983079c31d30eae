"""Trouble under Prefect: its failures are not the run's, and a chunk that crashes costs its own identities only."""

from __future__ import annotations

import pytest

from faceid_core.run.execute import execute_stage
from faceid_core.run.reporter import LogReporter
from tests.end_to_end.test_inline_folder import outcomes
from tests.helpers.replaced import replace_everywhere


def test_artifacts_that_cannot_be_left_cost_no_result(small, people, tmp_path, prefect_server, monkeypatch):
    import flows.nightly
    import tasks.prefect_view
    import tasks.stage_tasks

    def unreachable(**_):
        raise ConnectionError("the Prefect API does not answer")

    for module in (tasks.prefect_view, tasks.stage_tasks):
        monkeypatch.setattr(module, "create_table_artifact", unreachable)
    config = small(str(tmp_path / "store"), people, executor="inline")
    run, ended = flows.nightly.run_with_prefect(config, LogReporter())
    assert ended.exit_status == 0 and outcomes(run) == {"ann": "done", "bob": "done"}


@pytest.mark.exhaustive
def test_a_chunk_that_crashes_fails_its_own_people_only(small, people, tmp_path, prefect_server, monkeypatch):
    from flows.nightly import run_with_prefect

    def crashes(run, stage, works, executor):
        if stage == "detect" and run.subjects[works[0].subject].identity_id == "ann":
            raise RuntimeError("the thread could not be started")
        return execute_stage(run, stage, works, executor)

    replace_everywhere(monkeypatch, execute_stage, crashes)
    config = small(str(tmp_path / "store"), people, executor="inline", execution={"chunk": 1})
    run, ended = run_with_prefect(config, LogReporter())
    assert ended.exit_status == 2 and outcomes(run) == {"ann": "failed", "bob": "done"}
    ann = next(a for a in run.outcome_reports.values() if a.identity_id == "ann")
    assert ann.stage == "detect" and "run again" in ann.message
