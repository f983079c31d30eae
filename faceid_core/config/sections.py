"""The sections of the configuration, apart from `personalize`."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from .section import Section

if TYPE_CHECKING:
    from faceid_core.store.s3_settings import S3Settings

Metric = Literal[
    "identity", "detection", "concepts", "image_text", "attention", "leakage",
    "identity_second", "image_text_second", "diversity", "attributes",
]  # fmt: skip
Recognizer = Literal[
    "Dlib", "SFace", "ArcFace", "GhostFaceNet", "Facenet", "Facenet512", "VGG-Face", "OpenFace"
]
Clip = Literal["ViT-B/32", "ViT-L/14"]
StageName = Literal["detect", "parse", "mask", "personalize", "generate", "score"]


# Metrics that ask models which no miniature set has.
_OF_PHOTOGRAPHS = ("identity_second", "image_text_second", "diversity", "attributes")
# Fields of `ScoreConfig` that other sets do not read.
PHOTOGRAPH_FIELDS = ("recognizers", "clips", "selection_recognizer", "selection_clip")


class BaseModelConfig(Section):
    """The frozen text-to-image model that learns the people."""

    source: str = Field(
        "miniature",
        min_length=1,
        description="'miniature' (ships with the project), a known name (sd14, sd15, sd21, sd21-base, sdxl), "
        "hub:owner/name@revision, a folder in diffusers' layout, a single .safetensors file (with layout), or an "
        "s3:// address of either. Nothing is downloaded from the hub during a run.",
    )
    layout: str = Field(
        "",
        description="Of a single-file source: a known name or folder whose configurations and tokenizers describe it.",
    )
    weights: str = Field(
        "",
        description="Folder with hub models as <owner>--<name>--<revision>; empty takes the place of all `weights`, or "
        "else Hugging Face's own cache.",
    )
    digest: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Digest that the model's files must have, as a run keeps it with its results; empty takes what is "
        "there.",
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

    scorers: Literal["miniature", "miniature-selection", "photographs", "photographs-selection"] = Field(
        "miniature",
        description="The set of scorers: miniature reports and is asked for nothing else; miniature-selection "
        "may choose settings, and no figure that it gives is reported. The same for photographs, whose weights do not "
        "ship: faceid models fetch brings them.",
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
    recognizers: tuple[Recognizer, ...] = Field(
        ("Dlib",),
        min_length=1,
        max_length=2,
        description="Of photographs: the face recognizer of identity and, if two are named, that of identity_second, "
        "by their DeepFace names. Dlib needs the extra 'dlib', which `make` installs.",
    )
    clips: tuple[Clip, ...] = Field(
        ("ViT-B/32",),
        min_length=1,
        max_length=2,
        description="Of photographs: the CLIP model of image_text and diversity and, if two are named, that of "
        "image_text_second.",
    )
    selection_recognizer: Recognizer = Field(
        "SFace", description="Of photographs-selection: its recognizer, never one of recognizers."
    )
    selection_clip: Clip = Field(
        "ViT-L/14", description="Of photographs-selection: its CLIP model, never one of clips."
    )

    @property
    def of_photographs(self) -> bool:
        """Whether the set is one for photographs."""
        return self.scorers.startswith("photographs")

    @model_validator(mode="after")
    def _models_fit_the_metrics(self) -> Self:
        # Other names in the set that is not asked would be refused for nothing.
        if not self.of_photographs:
            only = [each for each in self.metrics if each in _OF_PHOTOGRAPHS]
            if only:
                raise ValueError(f"metrics {', '.join(only)} need scorers: photographs")
            return self
        shared = {self.selection_recognizer, self.selection_clip} & {*self.recognizers, *self.clips}
        if self.scorers == "photographs-selection" and shared:
            raise ValueError(
                f"{', '.join(sorted(shared))} would both choose settings and report on them; name another "
                "selection_recognizer or selection_clip, or take it out of recognizers or clips"
            )
        for field, chosen, metric in (
            ("recognizers", self.recognizers, "identity_second"),
            ("clips", self.clips, "image_text_second"),
        ):
            selecting = self.scorers == "photographs-selection"
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"{field} names {chosen[0]} twice; name another or one only")
            if metric in self.metrics and (len(chosen) < 2 or selecting):
                raise ValueError(f"metric {metric} needs a second name in {field}, and scorers: photographs")
        return self


def cluster_address(configured: str) -> tuple[str, str]:
    """The Ray cluster that a run joins, and the setting that names it; empty where Ray is started on this machine.

    Args:
        configured: `execution.ray_address`; where it is empty RAY_ADDRESS counts, which Ray sets for its own jobs.
    """
    setting = "execution.ray_address" if configured else "RAY_ADDRESS (in the environment)"
    address = configured or os.environ.get("RAY_ADDRESS", "")
    return ("", "") if address in ("", "local") else (address, setting)


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
        0,
        ge=0,
        le=256,
        description="CPU threads of an actor (0: this machine's cores / workers; all of them if workers is 0).",
    )
    ray_address: str = Field(
        "",
        description="Address of a running Ray cluster; empty takes RAY_ADDRESS, or else starts one on this machine.",
    )
    attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="Tries for a person's stage before it counts as failed; a person who cannot be learned so has one.",
    )
    chunk: int = Field(
        32,
        ge=1,
        le=1000,
        description="Results to compute in one Prefect task run: one per person and stage, in score one per metric. "
        "In personalize rounded up to a multiple of personalize.slots.",
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

    def threads(self) -> int:
        """CPU threads of an actor, as configured or as this machine's cores divide among the workers."""
        return self.threads_per_worker or max(1, (os.cpu_count() or 1) // max(1, self.workers))


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
    on_busy: Literal["wait", "refuse", "share"] = Field(
        "refuse",
        description="When another run runs on this store: wait for its end, refuse to start, or share the work: "
        "both run, and neither learns or draws whom the other is at.",
    )
    busy_wait_minutes: float | None = Field(
        None,
        ge=0.0,
        le=10_080.0,
        description="With on_busy: wait, how long before the run is refused after all; empty: as long as it takes. "
        "A run that waits is refused as well when finish_by passes. The nightly deployment begins with 240.",
    )
    max_failed_share: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of people failed or not reached above which the run fails."
    )
    require_consent: bool = Field(
        False, description="Refuse whoever has neither consent_ref nor consent_until in the manifest."
    )
    finish_by: dt.time | None = Field(
        None,
        description="Local time after which nobody is started on a stage up to personalize. Whoever has tokens by "
        "then is still drawn, scored and published, so the run ends later than this. Read from the machine's clock "
        "whenever somebody is to be started: one that is set in the run moves it.",
    )
    timezone: str = Field("UTC", description="Timezone of the schedule, of run_date and of finish_by.")
    report_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description="Address under which a web server of yours shows the store to those who may see it, for the "
        "report's link in Prefect; empty: the file's own address, or the console's for S3.",
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

    endpoint_url: str = Field(
        "", description="S3 endpoint other than AWS's own; empty takes AWS_ENDPOINT_URL, AWS's files, or AWS."
    )
    region: str = Field(
        "", description="Region; empty takes AWS_REGION, AWS_DEFAULT_REGION or the profile's."
    )
    path_style: bool | None = Field(
        None,
        description="Bucket in the path (true) or in the host's name (false); empty takes the path where the endpoint is "
        "not AWS's, as most S3 clones need.",
    )
    kms_key: str = Field(
        "",
        description="KMS key (id, alias or ARN) with which the store encrypts everything that is written; empty leaves "
        "encryption to the bucket.",
    )
    checksums: Literal["sha256", "crc32", "none"] = Field(
        "sha256",
        description="Checksum that goes with every object written, for S3 to compare; none for S3 clones that refuse "
        "it. Every object is hashed when it is read in any case.",
    )
    attempts: int = Field(
        5,
        ge=1,
        le=20,
        description="Tries of a request that fails, with growing pauses; one that is told to slow down has more.",
    )
    timeout_seconds: float = Field(
        60.0, ge=1.0, le=3600.0, description="How long an answer may take before the request is tried again."
    )
    connections: int = Field(
        32,
        ge=1,
        le=1024,
        description="Connections kept open by a process; at least its threads on the store (16).",
    )

    def settings(self) -> S3Settings:
        """The section as the store takes it; what is empty is left to boto3's own sources."""
        # The store's modules take 50 ms to import, which `--help` does without.
        from faceid_core.store.s3_settings import S3Settings

        return S3Settings(
            **{name: None if value == "" else value for name, value in self.model_dump().items()}
        )
