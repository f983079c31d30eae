"""The deployments, in one table: what can be started from the Prefect UI; infra/prefect.yaml has them for a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import EntrypointType
from prefect.schedules import Cron

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError
from flows.maintenance import collect_garbage, erase, erase_expired_consent
from flows.manual_runs import evaluate_only, personalize_one, study
from flows.nightly import nightly
from tasks.prefect_view import TAG

OF_POOL = "-pool"  # ends the names of infra/prefect.yaml, so that neither replaces the other's on one server
SCHEDULE = "faceid-cron"  # the slug of the schedule of --cron; others were added on the server

AT_NOON = "0 12 * * *"  # away from the run of the night

# Long enough for a run by hand to end, short enough for the run that begins at 22:00 to be over by morning.
NIGHTLY_WAITS_MINUTES = 240.0


def _as_configured(config: NightlyConfig) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json")}


def _wait_with_limit(config: NightlyConfig) -> dict[str, Any]:
    """A scheduled run waits for another use of the store, but fails after hours, so that the operator learns of it."""
    if config.run.on_busy == "share":
        return _as_configured(config)
    minutes = config.run.busy_wait_minutes
    settings = {"run.on_busy": "wait"}
    if minutes is None:
        settings["run.busy_wait_minutes"] = NIGHTLY_WAITS_MINUTES
    return _as_configured(changed(config, settings, source="deployment"))


def _wait_for_store(config: NightlyConfig) -> dict[str, Any]:
    """A run that is started by hand, while another may hold the store, waits for its turn."""
    return _as_configured(changed(config, {"run.on_busy": "wait"}, source="deployment"))


def _store_only(config: NightlyConfig) -> dict[str, Any]:
    return {"place": {"store": config.store, "s3": config.s3.model_dump(mode="json")}}


@dataclass(frozen=True)
class Offer:
    """A deployment.

    Args:
        name: The name of the deployment and of its flow.
        flow: The flow.
        tags: Its tags beside the project's.
        parameters: Makes the form's initial values from the configuration.
        cron: When it is started unless a cron line is given for it; empty: by hand only.
    """

    name: str
    flow: Any
    tags: tuple[str, ...]
    parameters: Callable[[NightlyConfig], dict[str, Any]]
    cron: str = ""

    @property
    def entrypoint(self) -> str:
        """The module and the name by which a process finds the flow."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


OFFERS = (
    Offer("nightly", nightly, ("nightly",), _wait_with_limit),
    Offer("personalize-one", personalize_one, ("by-hand",), _wait_for_store),
    Offer("evaluate-only", evaluate_only, ("by-hand",), _wait_for_store),
    Offer("study", study, ("by-hand",), _wait_for_store),
    Offer("erase", erase, ("maintenance",), _store_only),
    Offer("erase-expired-consent", erase_expired_consent, ("maintenance",), _as_configured, AT_NOON),
    Offer("collect-garbage", collect_garbage, ("maintenance",), _store_only),
)
# The next run of a deployment waits while one is under way.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def deployments(config: NightlyConfig, cron: str = "") -> list[RunnerDeployment]:
    """All deployments, for `faceid serve` on one machine.

    Args:
        config: The initial values of the forms.
        cron: When `nightly` is started, in the timezone of `run.timezone`; empty: by hand only.

    Raises:
        ConfigurationError: `cron` is no cron line; the configuration names the date of one run.
    """
    if config.run.date is not None:
        raise ConfigurationError(
            "run.date is for one run, and every run of a schedule would have it; leave it out here, and give it in the "
            "form of the run, or to `faceid run`"
        )
    lines = {offer.name: offer.cron for offer in OFFERS} | {"nightly": cron}
    try:
        schedules = {
            name: Cron(line, timezone=config.run.timezone, slug=SCHEDULE) for name, line in lines.items() if line
        }
    except ValueError:
        raise ConfigurationError(
            f"--cron {cron!r} is no cron line; write five fields, as in '0 22 * * *' for every day at 22:00"
        ) from None
    return [
        offer.flow.to_deployment(
            name=offer.name,
            parameters=offer.parameters(config),
            schedule=schedules.get(offer.name),
            concurrency_limit=ONE_AT_A_TIME,
            tags=[TAG, *offer.tags],
            description=offer.flow.description,
            # By module, not by value: a run's process imports what is installed.
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for offer in OFFERS
    ]


def keep_operator_changes(client: Any, deployment: RunnerDeployment, print_line: Callable[[str], None]) -> bool:
    """Give a deployment, before it is registered again, the switches and schedules that it has on the server.

    Registering would switch the deployment and its schedules on. The schedule of --cron is on when it is new, and
    otherwise as the operator left it, also under another cron line; without --cron it is removed. Schedules that were
    added on the server are kept.

    Args:
        client: A synchronous client of Prefect.
        deployment: Changed in place.
        print_line: Called with a line where a schedule is removed.

    Returns:
        Whether the deployment or its schedule is switched off.
    """
    registered = _registered(client, deployment.full_name)
    if registered is None:
        return False
    deployment.paused = bool(registered.paused)
    wanted = list(deployment.schedules or ())
    ours = [each for each in registered.schedules if _is_ours(each, wanted)]
    for schedule in wanted:
        schedule.active = ours[0].active if ours else True
    added = [each for each in registered.schedules if each not in ours]
    for each in ours if not wanted else ():
        client.delete_deployment_schedule(registered.id, each.id)
        line = getattr(each.schedule, "cron", each.schedule)
        print_line(f"{deployment.name}: the schedule {line!r} of an earlier --cron is removed, since this call has none")
    deployment.schedules = [*wanted, *map(_copied, added)]
    return deployment.paused or any(not schedule.active for schedule in wanted)


def refuse_those_of_pools(client: Any, offered: Sequence[RunnerDeployment]) -> None:
    """Refuse to register a deployment that a work pool has under the same name: its workers would get no run any more.

    Args:
        client: A synchronous client of Prefect.
        offered: What is to be registered.

    Raises:
        ConfigurationError: the server has such a deployment; nothing was changed.
    """
    for deployment in offered:
        there = _registered(client, deployment.full_name)
        if there is not None and there.work_pool_name:
            raise ConfigurationError(
                f"the deployment {deployment.full_name} of this server belongs to the work pool "
                f"{there.work_pool_name!r}, and serving it would take it from the pool. Deploy infra/prefect.yaml "
                f"again, whose deployments have names of their own ({deployment.name}{OF_POOL}), and remove this one: "
                f"prefect deployment delete {deployment.full_name}"
            )


def scheduled_twice(client: Any, offered: Sequence[RunnerDeployment]) -> list[str]:
    """A line for each deployment that has an active schedule here and in a work pool of the same server.

    Args:
        client: A synchronous client of Prefect.
        offered: What is registered here, with its schedules.
    """
    found = []
    for deployment in offered:
        there = _registered(client, f"{deployment.full_name}{OF_POOL}")
        here = not deployment.paused and any(each.active is not False for each in deployment.schedules or ())
        if here and there and not there.paused and any(each.active for each in there.schedules):
            found.append(
                f"{deployment.name} is scheduled here and, as {there.name}, for the work pool {there.work_pool_name!r}: "
                "it starts twice; switch one of the schedules off"
            )
    return found


def _registered(client: Any, full_name: str) -> Any | None:
    try:
        return client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None


def _is_ours(schedule: Any, wanted: Sequence[Any]) -> bool:
    # A schedule without a slug that equals that of --cron is taken for it.
    return schedule.slug == SCHEDULE or (
        schedule.slug is None and any(schedule.schedule == each.schedule for each in wanted)
    )


def _copied(schedule: Any) -> DeploymentScheduleCreate:
    kept = {name: getattr(schedule, name) for name in ("schedule", "active", "parameters", "slug")}
    return DeploymentScheduleCreate(**kept, max_scheduled_runs=schedule.max_scheduled_runs)
