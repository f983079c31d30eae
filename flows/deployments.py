"""What can be started from the Prefect UI, in one table; `faceid serve` offers it, infra/prefect.yaml says the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import EntrypointType
from prefect.schedules import Cron

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError
from flows.maintenance import collect_garbage, erase
from flows.nightly import nightly
from flows.on_demand import evaluate_only, personalize_one, study

TAG = "faceid"
SCHEDULE = "faceid-cron"  # tells the schedule of --cron from those that are added on the server


# Long enough for a run by hand to end, short enough for the run that begins at 22:00 to be over by morning.
NIGHTLY_WAITS_MINUTES = 240.0


def _run(config: NightlyConfig) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json")}


def _waiting_run(config: NightlyConfig) -> dict[str, Any]:
    """Started by a schedule: it waits for another use of the store, but not for ever, since somebody should know."""
    if config.run.on_busy == "share":
        return _run(config)
    minutes = config.run.busy_wait_minutes
    settings = {"run.on_busy": "wait"}
    if minutes is None:
        settings["run.busy_wait_minutes"] = NIGHTLY_WAITS_MINUTES
    return _run(changed(config, settings, source="deployment"))


def _patient_run(config: NightlyConfig) -> dict[str, Any]:
    """Started by hand while a run may hold the store: it waits for its turn."""
    return _run(changed(config, {"run.on_busy": "wait"}, source="deployment"))


def _place(config: NightlyConfig) -> dict[str, Any]:
    return {"place": {"store": config.store, "s3": config.s3.model_dump(mode="json")}}


@dataclass(frozen=True)
class Offer:
    """A deployment.

    Args:
        name: Its name, which is also its flow's.
        flow: What it runs.
        tags: Beside the project's own.
        parameters: From the configuration to what the form begins with.
    """

    name: str
    flow: Any
    tags: tuple[str, ...]
    parameters: Callable[[NightlyConfig], dict[str, Any]]

    @property
    def entrypoint(self) -> str:
        """The module and the name by which a process finds the flow."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


OFFERS = (
    Offer("nightly", nightly, ("night",), _waiting_run),
    Offer("personalize-one", personalize_one, ("by-hand",), _patient_run),
    Offer("evaluate-only", evaluate_only, ("by-hand",), _patient_run),
    Offer("study", study, ("by-hand",), _patient_run),
    Offer("erase", erase, ("maintenance",), _place),
    Offer("collect-garbage", collect_garbage, ("maintenance",), _place),
)
# A run that overruns must not meet the next one of its kind: the later run waits for its turn.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def deployments(config: NightlyConfig, cron: str = "") -> list[RunnerDeployment]:
    """Every offer, for one box.

    Args:
        config: What the forms begin with.
        cron: When `nightly` is started, in the timezone of `run.timezone`; empty: by hand only.

    Raises:
        ConfigurationError: this is no cron line.
    """
    try:
        schedule = Cron(cron, timezone=config.run.timezone, slug=SCHEDULE) if cron else None
    except ValueError:
        raise ConfigurationError(
            f"--cron {cron!r} is no cron line; write five fields, as in '0 22 * * *' for every day at 22:00"
        ) from None
    return [
        offer.flow.to_deployment(
            name=offer.name,
            parameters=offer.parameters(config),
            schedule=schedule if offer.name == "nightly" else None,
            concurrency_limit=ONE_AT_A_TIME,
            tags=[TAG, *offer.tags],
            description=offer.flow.description,
            # By module, not by value: a run's process imports what is installed.
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for offer in OFFERS
    ]
