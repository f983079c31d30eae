"""The sections that say where, when and how a run executes, what becomes of it, and whom it must not use.

None of them decides a result: a run elsewhere has the same.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from faceid_core.cpus import available_cpus

from .section import Section, date_as_text

if TYPE_CHECKING:
    from faceid_core.store.s3_settings import S3Settings

StageName = Literal["detect", "parse", "mask", "personalize", "generate", "score"]
Promotion = Literal["passed", "complete", "never"]
# '8 x 6 CPU, 1 GPU': how many nodes, and what Ray gives away on each.
NODES = re.compile(r"^(?P<count>[1-9]\d{0,3}) x (?P<cpus>\d{1,4}) CPU(?:, (?P<gpus>\d{1,2}) GPU)?$")


def cluster_address(configured: str) -> tuple[str, str]:
    """The Ray cluster that a run joins, and the setting that names it; both empty if Ray is started on this machine.

    Args:
        configured: `execution.ray_address`; if it is empty, RAY_ADDRESS counts, which Ray sets for its own jobs.
    """
    setting = "execution.ray_address" if configured else "RAY_ADDRESS (in the environment)"
    address = configured or os.environ.get("RAY_ADDRESS", "")
    return ("", "") if address in ("", "local") else (address, setting)


class ExecutionConfig(Section):
    """Where and how the work runs."""

    executor: Literal["ray", "inline"] = Field(
        "ray", description="ray: a pool of Ray actors under Prefect; inline: this process, for debugging."
    )
    workers: int = Field(
        1,
        ge=0,
        le=1024,
        description="Ray actors, each with a copy of the models (0: as many as the cluster has room for, also "
        "while it grows or shrinks).",
    )
    threads_per_worker: int = Field(
        0,
        ge=0,
        le=256,
        description="CPU threads of an actor, and the CPUs that it asks Ray for (0: by the nodes of the cluster, "
        "or by the CPUs that this machine or its container may use). Never more than a node has.",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0.0,
        le=16.0,
        description="GPUs that an actor with the base model asks Ray for, where it runs on GPUs: a fraction lets "
        "several share one, if their models fit into its memory.",
    )
    worker_wait_seconds: int = Field(
        900,
        ge=1,
        le=86_400,
        description="Seconds without any actor after which the stage ends: for nodes that an autoscaler adds, or "
        "resources that others hold. What is waited for is logged. A request that fits no node is refused at once, "
        "unless nodes may still come.",
    )
    autoscaler_nodes: tuple[Annotated[str, Field(pattern=NODES.pattern)], ...] = Field(
        (),
        description="Nodes that the cluster's autoscaler may add, as in ['8 x 6 CPU, 1 GPU', '8 x 4 CPU'], since "
        "Ray has no list of them. They count in the size and number of the workers, and workers for them are asked "
        "for. Empty: only nodes that are there count.",
    )
    niceness: int = Field(
        15,  # Ray's own: worker_niceness in src/ray/common/ray_config_def.h, which its Python code does not show
        ge=0,
        le=19,
        description="Niceness of the actors of a Ray that is started on this machine; 15 is Ray's own, which gives "
        "way to other programs and starves beside them. The nodes of a cluster have theirs "
        "(RAY_worker_niceness where `ray start` is called).",
    )
    shared_store: bool = Field(
        False,
        description="The store's folder is on a file system that every node of the cluster sees under the same path "
        "(NFS, a volume). A probe file is read back on every node, also on one that joins later; without this a folder "
        "is refused on several nodes, and on a cluster that was there before.",
    )
    ray_address: str = Field(
        "",
        description="Address of a running Ray cluster, of which this machine is a node: auto, or host:port of the "
        "head; empty: RAY_ADDRESS, or else one is started on this machine.",
    )
    attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="Attempts at a stage of an identity before it counts as failed; an identity that cannot be "
        "trained with these settings has one.",
    )
    chunk: int = Field(
        32,
        ge=1,
        le=1000,
        description="Results per Prefect task run: one per identity and stage, in score one per metric. In "
        "personalize rounded up to a multiple of personalize.slots.",
    )
    checkpoint_seconds: float = Field(
        30.0,
        ge=0.0,
        le=86_400.0,
        description="Seconds between checkpoints of identities in training, from which training resumes after a "
        "crash (0: no checkpoints).",
    )
    stall_seconds: int = Field(
        1200, ge=10, le=86_400, description="Seconds without progress after which an actor is replaced."
    )

    def threads(self) -> int:
        """CPU threads of a worker in this process, as configured or as this machine's CPUs divide among the workers."""
        return self.threads_per_worker or max(1, available_cpus() // max(1, self.workers))

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(
                f"{value:g} is neither a fraction of one GPU nor a whole number, as Ray wants it"
            )
        return value


class RunConfig(Section):
    """What this run covers and when it stops."""

    only: tuple[str, ...] = Field(
        (), description="Identity ids to run; empty: all identities of the manifest."
    )
    date: dt.date | None = Field(
        None,
        description="The date of this run, for one that was missed, as in 2026-11-20; empty: the date of the scheduled "
        "start. If a run of this name, date, photos and settings is complete, nothing is done. Consents are those of "
        "today.",
    )
    from_stage: StageName | None = Field(
        None, description="With force: the first stage to compute again; empty: detect."
    )
    force: bool = Field(
        False,
        description="Compute the stages of identities again although their results are cached; floor and ceiling "
        "are not computed again.",
    )
    on_busy: Literal["wait", "refuse", "share"] = Field(
        "refuse",
        description="If another run uses this store: wait for its end, refuse to start, or share the work, so that "
        "an identity is in training or drawn by one of the runs only.",
    )
    busy_wait_minutes: float | None = Field(
        None,
        ge=0.0,
        le=10_080.0,
        description="With on_busy wait: minutes after which the run is refused; empty: no limit. A waiting run is "
        "also refused when finish_by passes. The nightly deployment begins with 240.",
    )
    max_failed_share: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of identities failed or not reached above which the run fails.",
    )
    unusual_share: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Increase of the share of rejected identities, or of weak ones, over the median of the last ten "
        "complete runs of this name above which Prefect gets the event faceid.run.unusual; 1: never.",
    )
    require_consent: bool = Field(
        False, description="Refuse identities with neither consent_ref nor consent_until in the manifest."
    )
    finish_by: dt.time | None = Field(
        None,
        description="Local time after which no identity starts a stage up to personalize. Identities that have "
        "tokens by then are still drawn, scored and published, so the run ends later. The machine's clock is read "
        "before each start, so setting the clock during a run moves this time.",
    )
    timezone: str = Field("UTC", description="Timezone of the schedule, run_date and finish_by.")
    report_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description="Address under which your web server shows the store, for links to the report in Prefect; "
        "empty: the file's own address, or that of the S3 console.",
    )

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"unknown timezone {value!r}; use a name such as 'Europe/Berlin'")
        return value

    @field_validator("finish_by", mode="before")
    @classmethod
    def _time_as_text(cls, value: Any) -> Any:
        # YAML reads an unquoted 22:30 as the number 1350, which would pass for 22 minutes past midnight.
        if isinstance(value, int | float):
            raise ValueError(f"{value} is a number; write the time in quotes, as in finish_by: '05:30'")
        return value

    @field_validator("finish_by")
    @classmethod
    def _time_of_the_timezone(cls, value: dt.time | None) -> dt.time | None:
        if value is not None and value.tzinfo is not None:
            raise ValueError("a time of day has no offset; leave it out, and name the clock in run.timezone")
        return value

    _date_as_text = field_validator("date", mode="before")(date_as_text)

    @model_validator(mode="after")
    def _from_stage_needs_force(self) -> Self:
        if self.from_stage is not None and not self.force:
            raise ValueError("from_stage says where to begin computing again, which needs force as well")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The timezone as an object."""
        return ZoneInfo(self.timezone)


class ConsentConfig(Section):
    """What happens after the end of a consent (`consent_until` of the manifest), besides that runs refuse the person."""

    erase_after_days: int | None = Field(
        None,
        ge=0,
        le=36_500,
        description="Days after the last day of a consent; then `faceid erase-expired` and the deployment "
        "erase-expired-consent erase the person. Empty: they only list such people.",
    )
    erase_at_most: int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="People erased in one go. If more are due none is erased: a date in the manifest or the machine's "
        "clock may be wrong.",
    )


class GateConfig(Section):
    """Thresholds of `faceid compare`; one counts only where the difference's interval excludes 0."""

    identity: float = Field(
        -0.02,
        ge=-1.0,
        le=0.0,
        description="Mean paired difference of normalized identity below which the later run fails.",
    )
    concepts: float = Field(
        -0.01,
        ge=-1.0,
        le=0.0,
        description="Mean paired difference of concept accuracy (share of images) below which the later run fails.",
    )
    weak: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="Increase of the share of weak identities above which the later run fails.",
    )
    people: int = Field(
        20,
        ge=2,
        le=1_000_000,
        description="People in both runs below which nothing is judged: they are too few.",
    )
    promote: Promotion = Field(
        "passed",
        description="Which run becomes the current one of its name, which downstream readers use: a complete run that is "
        "not worse than the current one (passed), every complete run (complete), or only what `faceid promote` names "
        "(never). A run of chosen identities (run.only) never does.",
    )


class S3Config(Section):
    """How an s3:// store is reached; credentials come from the environment and AWS's files, never from here."""

    endpoint_url: str = Field(
        "", description="S3 endpoint other than AWS's; empty: AWS_ENDPOINT_URL, AWS's files, or AWS."
    )
    region: str = Field("", description="Region; empty: AWS_REGION, AWS_DEFAULT_REGION or the profile's.")
    path_style: bool | None = Field(
        None,
        description="Bucket in the path (true) or in the host name (false); empty: in the path if the endpoint is "
        "not AWS's, as most S3 clones need.",
    )
    kms_key: str = Field(
        "",
        description="KMS key (id, alias or ARN) that encrypts all objects written; empty: the bucket's own encryption.",
    )
    checksums: Literal["sha256", "crc32", "none"] = Field(
        "sha256",
        description="Checksum sent with each object, for S3 to compare; none for S3 clones that refuse it. Objects "
        "are hashed on reading in any case.",
    )
    attempts: int = Field(
        5,
        ge=1,
        le=20,
        description="Attempts at a request that fails, with growing pauses; a request that is throttled has more.",
    )
    timeout_seconds: float = Field(
        60.0,
        ge=1.0,
        le=3600.0,
        description="Seconds that an answer may take before the request is tried again.",
    )
    connections: int = Field(
        32,
        ge=1,
        le=1024,
        description="Connections kept open by a process; at least its store threads (16).",
    )

    def settings(self) -> S3Settings:
        """The section as the store takes it; what is empty is left to boto3's own sources."""
        # The store's modules take 50 ms to import, which `--help` does without.
        from faceid_core.store.s3_settings import S3Settings

        values: dict[str, Any] = {
            name: None if value == "" else value for name, value in self.model_dump().items()
        }
        return S3Settings(**values)
