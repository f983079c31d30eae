"""NightlyConfig: the one model behind the YAML file, the command line and the form in the Prefect UI.

Parsed once at the edge; frozen afterwards. Only light modules are imported here, so that
`faceid run --help` needs neither torch nor prefect.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Self
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from faceid_core.errors import ConfigurationError
from faceid_core.personalize.control import WHOLE, IdentityUse
from faceid_core.personalize.method import Method
from faceid_core.personalize.presets import PRESETS

DEFAULT_PRESET = "semantic-fidelity"
Metric = Literal["identity", "detection", "concepts", "image_text", "attention", "leakage"]
StageName = Literal["detect", "parse", "mask", "personalise", "generate", "score"]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False)


class FacesConfig(Section):
    """How a photo becomes an aligned crop and a mask."""

    backend: Literal["miniature", "deepface"] = Field(
        "miniature",
        description="Face detector and parser: 'miniature' for the synthetic world, 'deepface' (OpenCV detector, "
        "approximate elliptical mask) for photographs.",
    )
    mask_region: Literal["face", "face_hair", "head"] = Field(
        "face", description="What the mask covers: the face, the face and hair, or the whole head."
    )
    min_face_pixels: float = Field(
        40.0, ge=8, le=4096, description="Smallest accepted width and height of a face, in photo pixels."
    )
    min_sharpness: float = Field(
        0.08, ge=0.0, le=10.0, description="Smallest accepted sharpness of the face (see faces/quality.py)."
    )
    max_photo_bytes: int = Field(
        30_000_000, ge=1_000, le=500_000_000, description="Largest accepted photo file, in bytes."
    )
    max_photo_pixels: int = Field(
        50_000_000, ge=4_096, le=500_000_000, description="Largest accepted photo, in pixels."
    )


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


def _optional_choices() -> dict[str, Any]:
    """Every field of Method with its limits, made optional: empty keeps the preset's value."""
    fields = {}
    for name, field in Method.model_fields.items():
        kind = field.annotation
        for limit in field.metadata:
            kind = Annotated[kind, limit]
        value = getattr(PRESETS[DEFAULT_PRESET], name)
        usual = "empty" if value is None else value
        about = f"{field.description} The preset's value by default ({usual} in {DEFAULT_PRESET})."
        fields[name] = (Optional[kind], Field(None, description=about))  # noqa: UP045 - a value, not an annotation
    return fields


# The form and the command line show every choice of the method.
MethodOverrides: type[BaseModel] = create_model(
    "MethodOverrides",
    __base__=Section,
    __doc__="Single choices that differ from the preset; leave empty to keep the preset's value.",
    **_optional_choices(),
)


class PersonalizeConfig(Section):
    """How the tokens of a person are learned."""

    preset: Literal[tuple(PRESETS)] = Field(  # type: ignore[valid-type]
        DEFAULT_PRESET, description="The method to start from: a row of the comparison table."
    )
    method: MethodOverrides = Field(  # type: ignore[valid-type]
        default_factory=MethodOverrides, description="Single choices that differ from the preset."
    )
    slots: int = Field(8, ge=1, le=256, description="People who share each pass through the network.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random draw in training.")

    @model_validator(mode="after")
    def _method_fits_together(self) -> Self:
        try:
            self.resolved()
        except ValidationError as error:
            problems = "; ".join(
                ".".join(["method", *map(str, problem["loc"])]) + f": {problem['msg']}"
                for problem in error.errors()
            )
            raise ValueError(f"with preset {self.preset!r}: {problems}") from None
        return self

    def resolved(self) -> Method:
        """Return the preset with the overrides applied, validated as a whole."""
        chosen = {k: v for k, v in self.method.model_dump().items() if v is not None}
        return Method.model_validate({**PRESETS[self.preset].model_dump(), **chosen})


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
    workers: int = Field(1, ge=1, le=1024, description="Ray actors, each with a copy of the models.")
    threads_per_worker: int = Field(
        0, ge=0, le=256, description="CPU threads of an actor (0: cores / workers)."
    )
    ray_address: str = Field(
        "", description="Address of a running Ray cluster; empty starts one on this machine."
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


class NightlyConfig(Section):
    """Everything that one nightly run needs to know."""

    name: str = Field(
        "nightly", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of this kind of run."
    )
    identities: str = Field(
        "miniature:samples",
        min_length=1,
        description="Who: identities.csv or .parquet, a folder of photos, 'miniature:samples' for the sample people, "
        "or 'miniature:held-out:16' for so many of the people that studies report on.",
    )
    store: str = Field(
        "work/store",
        min_length=1,
        description="Root of the store: a folder, file:///… or s3://bucket/prefix.",
    )
    faces: FacesConfig = Field(default_factory=FacesConfig, description="Detection, parsing, mask.")
    base_model: BaseModelConfig = Field(
        default_factory=BaseModelConfig, description="The text-to-image model."
    )
    personalize: PersonalizeConfig = Field(default_factory=PersonalizeConfig, description="Token learning.")
    generate: GenerateConfig = Field(default_factory=GenerateConfig, description="Evaluation pictures.")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="Metrics.")
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig, description="Executor and workers.")
    run: RunConfig = Field(default_factory=RunConfig, description="Scope and limits of this run.")
    s3: S3Config = Field(default_factory=S3Config, description="S3 connection.")

    @model_validator(mode="after")
    def _the_stages_used_are_learned(self) -> Self:
        try:
            self.identity_use()
        except ConfigurationError as error:
            raise ValueError(f"generate.use_stages: {error}") from None
        return self

    def identity_use(self, is_person: bool = True) -> IdentityUse:
        """How much of a person the pictures use; plain words are always used whole.

        Raises:
            ConfigurationError: a stage is named that the method does not learn.
        """
        if not is_person:
            return WHOLE
        chosen = self.generate
        use = IdentityUse(chosen.use_stages, chosen.use_sides, chosen.use_strength)
        return use.within(self.personalize.resolved().stages)

    def digest(self) -> str:
        """sha256 over what decides results: everything but where and how the run executes."""
        decides = self.model_dump(mode="json", exclude={"name", "store", "execution", "run", "s3"})
        if self.identity_use().is_whole:
            # The digest is that of the time before there was a choice.
            decides["generate"] = {k: v for k, v in decides["generate"].items() if not k.startswith("use_")}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def parse_config(data: dict[str, Any], *, source: str = "configuration") -> NightlyConfig:
    """Validate a mapping as a NightlyConfig.

    Raises:
        ConfigurationError: every problem at once, each with its key and what would be right.
    """
    try:
        return NightlyConfig.model_validate(data)
    except ValidationError as error:
        lines = [f"  - {_explain(problem)}" for problem in error.errors()]
        raise ConfigurationError(f"{source} cannot be used:\n" + "\n".join(lines)) from None


def load_config(path: str | Path | None, overrides: dict[str, Any] | None = None) -> NightlyConfig:
    """Read a YAML file (or nothing) and lay dotted overrides such as {'generate.seeds': 2} over it."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise ConfigurationError(f"configuration file {path} does not exist") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not valid YAML: {error}") from None
        if not isinstance(data, dict):
            raise ConfigurationError(f"{path} must hold a mapping of sections, not {type(data).__name__}")
    for dotted, value in (overrides or {}).items():
        _set(data, dotted, value)
    return parse_config(data, source=str(path) if path else "command line")


def changed(config: NightlyConfig, overrides: dict[str, Any], *, source: str) -> NightlyConfig:
    """Another configuration: this one with dotted overrides, validated as a whole.

    Raises:
        ConfigurationError: every problem at once; `source` says where the overrides come from.
    """
    data = config.model_dump()
    for dotted, value in overrides.items():
        _set(data, dotted, value)
    return parse_config(data, source=source)


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        below = data.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigurationError(f"{parent} must be a mapping to set {dotted}")
        data = below
    data[last] = value


def _explain(problem: dict[str, Any]) -> str:
    """One validation problem as 'key: what is wrong; what would be right'."""
    where = ".".join(str(part) for part in problem["loc"]) or "configuration"
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{where}: {problem['msg']}{got}"


def _keys_beside(location: tuple[Any, ...]) -> list[str]:
    model: Any = NightlyConfig
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return sorted(getattr(model, "model_fields", {}))
