"""What an operator has switched off or added on the Prefect server stays so when `faceid serve` starts again."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound

from flows.deployments import SCHEDULE


def keep_switches(client: Any, deployment: RunnerDeployment) -> bool:
    """Give a deployment that is about to be registered the switches of the one that the server has.

    The schedule of --cron is on when it is new, and otherwise as it was left, also under another cron line; without
    --cron it is removed. Schedules that were added on the server are kept.

    Args:
        client: A synchronous client.
        deployment: Changed in place.

    Returns:
        Whether the deployment or its schedule is switched off.
    """
    try:
        there = client.read_deployment_by_name(deployment.full_name)
    except ObjectNotFound:
        return False
    deployment.paused = bool(there.paused)
    wanted = list(deployment.schedules or ())
    before = [each for each in there.schedules if _is_ours(each, wanted)]
    for schedule in wanted:
        schedule.active = before[0].active if before else True
    added = [each for each in there.schedules if each not in before]
    for each in before if not wanted else ():
        client.delete_deployment_schedule(there.id, each.id)
    deployment.schedules = [*wanted, *map(_as_it_is, added)]
    return deployment.paused or any(not schedule.active for schedule in wanted)


def _is_ours(schedule: Any, wanted: list[DeploymentScheduleCreate]) -> bool:
    # Those of earlier versions have no slug: what says the same as --cron is taken for its schedule.
    return schedule.slug == SCHEDULE or (
        schedule.slug is None and any(schedule.schedule == each.schedule for each in wanted)
    )


def _as_it_is(schedule: Any) -> DeploymentScheduleCreate:
    kept = {name: getattr(schedule, name) for name in ("schedule", "active", "parameters", "slug")}
    return DeploymentScheduleCreate(**kept, max_scheduled_runs=schedule.max_scheduled_runs)
