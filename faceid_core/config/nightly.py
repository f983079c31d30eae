"""NightlyConfig: the one model behind the YAML file, the command line and the form in the Prefect UI."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import Field, model_validator

from faceid_core.errors import ConfigurationError

from .control import WHOLE, IdentityUse
from .execution import ConsentConfig, ExecutionConfig, GateConfig, RunConfig, S3Config
from .faces import FacesConfig
from .method import Method
from .monitoring import LogConfig, MetricsConfig
from .personalize import PersonalizeConfig
from .section import LocalPath, Section
from .sections import PHOTOGRAPH_FIELDS, BaseModelConfig, GenerateConfig, ScoreConfig

# The base model whose known names the project has; of others the configuration names a file.
_BASE_WITH_NAMES = "miniature"
# On these sections and keys no result depends: where and how a run executes, and who watches it.
_DECIDE_NOTHING = {"name", "store", "weights", "execution", "run", "consent", "s3", "gate", "metrics", "log"}


class NightlyConfig(Section):
    """Everything that one nightly run needs to know."""

    name: str = Field(
        "nightly", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of this kind of run."
    )
    identities: LocalPath = Field(
        "miniature:samples",
        min_length=1,
        description="Manifest: identities.csv or .parquet (here or in S3), or a folder of photos; example:astronaut "
        "for a real portrait; miniature:samples for the sample people, "
        "miniature:second-held-out:48 for so many of the people that studies report on.",
    )
    store: str = Field(
        "work/store",
        min_length=1,
        description="Root of the store: a folder, file:///… or s3://bucket/prefix.",
    )
    weights: LocalPath = Field(
        "",
        description="Folder or s3://bucket/prefix of weights that do not ship, as faceid models fetch fills it; empty: "
        "DeepFace's own folder, and what extras installed.",
    )
    faces: FacesConfig = Field(
        default_factory=FacesConfig, description="Face detection, face parsing, mask, and limits on photos."
    )
    base_model: BaseModelConfig = Field(
        default_factory=BaseModelConfig, description="The frozen text-to-image model."
    )
    personalize: PersonalizeConfig = Field(
        default_factory=PersonalizeConfig, description="How tokens are learned."
    )
    generate: GenerateConfig = Field(default_factory=GenerateConfig, description="The evaluation images.")
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="The metrics.")
    execution: ExecutionConfig = Field(
        default_factory=ExecutionConfig, description="Executor, workers and retries."
    )
    run: RunConfig = Field(default_factory=RunConfig, description="Scope and limits of the run.")
    consent: ConsentConfig = Field(
        default_factory=ConsentConfig, description="Erasure after the end of a consent."
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="Thresholds of `faceid compare`.")
    s3: S3Config = Field(default_factory=S3Config, description="How an s3:// store is reached.")
    metrics: MetricsConfig = Field(
        default_factory=MetricsConfig, description="Prometheus metrics of the run, for monitoring."
    )
    log: LogConfig = Field(default_factory=LogConfig, description="The format of the log.")

    @model_validator(mode="after")
    def _used_stages_exist(self) -> Self:
        try:
            self.identity_use()
        except ConfigurationError as error:
            raise ValueError(f"generate.use_stages: {error}") from None
        return self

    def identity_use(self, is_person: bool = True) -> IdentityUse:
        """How the images use the learned tokens; plain words are always used whole.

        Raises:
            ConfigurationError: a stage is named that the method does not have.
        """
        if not is_person:
            return WHOLE
        chosen = self.generate
        use = IdentityUse(
            chosen.use_stages,
            chosen.use_kv,
            chosen.use_strength,
            chosen.adjust_length,
            chosen.adjust_direction,
        )
        return use.within(self.method().stages)

    def method(self) -> Method:
        """The method of the run: the preset with its overrides; without known names, the preset's form without prior."""
        return self.personalize.resolved(has_names=self._has_names())

    def preset_in_use(self) -> str:
        """Name of the preset of `method`: without known names, of the configured preset's form without prior."""
        return self.personalize.preset_in_use(has_names=self._has_names())

    def _has_names(self) -> bool:
        return bool(self.personalize.names_file) or self.base_model.source == _BASE_WITH_NAMES

    def digest(self) -> str:
        """sha256 over the values that results depend on: all but where and how the run executes."""
        decides = self.model_dump(mode="json", exclude=_DECIDE_NOTHING)
        decides["faces"] = self.faces.result_values()
        decides["generate"] = self.generate.result_values()
        if self.identity_use().is_whole:  # naming all stages is the same as naming none
            decides["generate"]["use_stages"] = []
        del decides["personalize"]["samples_at_once"], decides["base_model"]["weights"]
        if not self.score.of_photographs:
            for name in PHOTOGRAPH_FIELDS:
                del decides["score"][name]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
