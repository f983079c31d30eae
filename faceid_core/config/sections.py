"""The sections of the configuration, apart from `personalize`."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from .section import Section

Metric = Literal["identity", "detection", "concepts", "image_text", "attention", "leakage"]
StageName = Literal["detect", "parse", "mask", "personalise", "generate", "score"]


class BaseModelConfig(Section):
    """The frozen text-to-image model that learns the people."""

    source: str = Field(
        "miniature",
        min_length=1,
        description="'miniature' (ships with the project) or a folder in the diffusers layout of Stable Diffusion.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the frozen network; tokens and losses stay in float32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run; 'auto' takes CUDA where there is one."
    )


class GenerateConfig(Section):
    """The evaluation pictures: prompt grid x seeds."""

    grid: str = Field(
        "miniature",
        min_length=1,
        description="Prompt grid: 'miniature' (24 prompts), 'laboratory' (harder, tells methods apart), 'photographs', "
        "or the path of a YAML file of your own.",
    )
    seeds: int = Field(4, ge=1, le=64, description="Pictures per prompt, seeds 0 to n-1.")
    sampler: Literal[
        "DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"
    ] = Field("DPMSolverMultistepScheduler", description="Sampler, by its diffusers name.")
    steps: int = Field(12, ge=1, le=1000, description="Sampling steps for each picture.")
    guidance: float = Field(4.0, ge=1.0, le=30.0, description="Classifier-free guidance scale (1 is none).")
    batch: int = Field(32, ge=1, le=512, description="Pictures drawn together.")
    use_stages: tuple[int, ...] = Field(
        (),
        description="Stages that use the person, from 1 (least noise); in the others the class word stands in. "
        "Empty means all.",
    )
    use_sides: Literal["kv", "k", "v"] = Field(
        "kv", description="What uses the person: keys (where to sample), values (what is painted), or both."
    )
    use_strength: float = Field(
        1.0, ge=0.0, le=1.0, description="From the class word's contexts (0) to the person's (1)."
    )


class ScoreConfig(Section):
    """What is measured on the pictures."""

    scorers: Literal["miniature", "miniature-selection"] = Field(
        "miniature",
        description="The set of scorers: miniature reports and is asked for nothing else; miniature-selection "
        "may choose settings, and no figure that it gives is reported.",
    )
    metrics: tuple[Metric, ...] = Field(
        ("identity", "detection", "concepts", "image_text", "attention", "leakage"),
        description="Metrics, each its own stage.",
    )
    named_people: int = Field(
        16,
        ge=0,
        le=256,
        description="People whom the base model knows, drawn as the ceiling (0: no ceiling).",
    )


class ExecutionConfig(Section):
    """Where the work runs."""

    executor: Literal["ray", "inline"] = Field(
        "ray", description="'ray': a pool of actors under Prefect; 'inline': this process, for debugging."
    )
    workers: int = Field(
        1,
        ge=0,
        le=1024,
        description="Ray actors, each with a copy of the models (0: as many as the cluster has room for, also when it "
        "grows or shrinks during the run).",
    )
    threads_per_worker: int = Field(
        0, ge=0, le=256, description="CPU threads of an actor (0: this machine's cores / workers)."
    )
    ray_address: str = Field(
        "",
        description="Address of a running Ray cluster; empty takes RAY_ADDRESS, or else starts one on this machine.",
    )
    attempts: int = Field(
        2, ge=1, le=10, description="Tries for a person's stage before it counts as failed."
    )
    chunk: int = Field(
        32,
        ge=1,
        le=1000,
        description="Results to compute in one Prefect task run: one per person and stage, in score one per metric. "
        "In personalise rounded up to a multiple of personalize.slots.",
    )
    journal_seconds: float = Field(
        30.0,
        ge=0.0,
        le=86_400.0,
        description="How often the training of everybody under way is kept, so that whoever goes on with it after a "
        "crash does not begin anew (0: never).",
    )
    stall_seconds: int = Field(
        1200, ge=10, le=86_400, description="An actor that reports no progress for so long is replaced."
    )


class RunConfig(Section):
    """What this run covers and when it stops."""

    only: tuple[str, ...] = Field(
        (), description="Identity ids to run; empty means everybody in the manifest."
    )
    from_stage: StageName | None = Field(None, description="With force: the first stage to compute again.")
    force: bool = Field(
        False,
        description="Compute again although the result is cached: people's stages; floor and ceiling are not "
        "computed again.",
    )
    on_busy: Literal["wait", "refuse"] = Field("refuse", description="When another night runs on this store.")
    max_failed_share: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of people failed or not reached above which the run fails."
    )
    finish_by: dt.time | None = Field(
        None,
        description="Local time after which nobody is started on a stage up to personalise. Whoever has tokens by "
        "then is still drawn, scored and published, so the run ends later than this.",
    )
    timezone: str = Field("UTC", description="Timezone of the schedule, of run_date and of finish_by.")

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

    @model_validator(mode="after")
    def _from_stage_needs_force(self) -> Self:
        if self.from_stage is not None and not self.force:
            raise ValueError("from_stage says where to begin computing again, which needs force as well")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The timezone as an object."""
        return ZoneInfo(self.timezone)


class S3Config(Section):
    """How an s3:// store is reached; credentials come from the usual AWS places, never from here."""

    endpoint_url: str = Field("", description="S3 endpoint other than AWS's own; empty for AWS.")
    region: str = Field("", description="Region; empty takes AWS_REGION or the profile's.")
    path_style: bool = Field(False, description="Bucket in the path, as most S3 clones need.")
