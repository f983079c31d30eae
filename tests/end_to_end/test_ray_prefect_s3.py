"""A whole run under Prefect and Ray on S3's wire protocol: the same results as in one process on a folder."""

from __future__ import annotations

import json

import ray
from prefect.logging.handlers import APILogHandler

from faceid_core.nightly import drive_inline
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.tables import Tables
from tests.end_to_end.conftest import kept_by_prefect


def stage_keys(run) -> dict[str, dict[str, str]]:
    return {each.identity_id: dict(each.stage_keys) for each in run.outcome_reports.values()}


def flow_states() -> dict[str, set[str]]:
    """Names of the states in which flow runs and task runs of this server ended, by their name."""
    from prefect.client.orchestration import get_client

    found: dict[str, set[str]] = {}
    with get_client(sync_client=True) as client:
        for run in [*client.read_flow_runs(limit=200), *client.read_task_runs(limit=200)]:
            found.setdefault(run.name.split("-")[0], set()).add(run.state_name)
    return found


def tagged_flow_runs() -> set[str]:
    """The first words of the names of the flow runs with the tag of deployments."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {run.name.split("-")[0] for run in client.read_flow_runs(limit=200) if "faceid" in run.tags}


def test_ray_and_prefect_on_s3_equal_one_process_on_a_folder(
    small, people_and_trouble, tmp_path, s3_server, prefect_server
):
    from flows.nightly import run_with_prefect

    inline = open_run(small(str(tmp_path / "store"), people_and_trouble), LogReporter())
    drive_inline(inline)

    config = small(f"s3://{s3_server.new_bucket()}/nights", people_and_trouble, executor="ray")
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"chunk": 2})})
    run, ended = run_with_prefect(config, LogReporter())
    assert ended.exit_status == 0
    assert not ray.is_initialized(), "the pool is closed when the run ends"
    assert {a.identity_id: str(a.outcome) for a in run.outcome_reports.values()} == {
        a.identity_id: str(a.outcome) for a in inline.outcome_reports.values()
    }
    assert stage_keys(run) == stage_keys(inline)
    for subject in inline.subjects.values():
        for result, manifest in subject.manifests.items():
            assert run.subjects[subject.name].manifests[result].content == manifest.content, result

    second, ended = run_with_prefect(config, LogReporter())
    assert not second.computed and ended.exit_status == 0
    states = flow_states()
    assert "Cached" in states["personalize"] and "Cached" in states["lookup"]

    rows = Tables(run.store).query("select outcome, count(*) n from identity_outcomes group by 1").to_pandas()
    assert dict(zip(rows.outcome, rows.n, strict=True)) == {"done": 2, "cached": 2, "rejected": 10}


def test_prefect_holds_keys_and_no_id(small, people_and_trouble, tmp_path, prefect_server):
    from flows.nightly import nightly, run_with_prefect

    config = small(str(tmp_path / "store"), people_and_trouble, executor="inline", execution={"chunk": 1})
    run, ended = run_with_prefect(config, LogReporter())
    assert ended.exit_status == 0, "chunks that run at once do not disturb each other"
    assert tagged_flow_runs() == {"small"}, "the automations look for the run, and for none of its stages"
    served = nightly(config, return_state=True)
    assert served.is_completed(), served.message
    APILogHandler().flush()
    people_and_trouble.write_text(
        "identity_id,photo,class_word\nzoe-secret,a.png,person\nzoe-secret,a.png,person\n"
    )
    state = nightly(config, return_state=True)
    assert state.is_failed() and "1 problem(s)" in state.message
    kept = kept_by_prefect()
    rejected = [a for a in run.outcome_reports.values() if str(a.outcome) == "rejected"]
    assert len(rejected) == 5 and not [a.message for a in rejected if json.dumps(a.message)[1:-1] not in kept]
    assert "generate: 4 cached, 0 to compute" in kept, "a served run's progress is in its log"
    assert run.run_id in kept and all(key in kept for key in run.outcome_reports)
    assert not [name for name in ("ann.png", '"ann"', "empty", "zoe-secret") if name in kept]
