"""NightlyConfig: the one model behind the YAML file, the command line and the form in the Prefect UI."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import Field, model_validator

from faceid_core.errors import ConfigurationError
from faceid_core.personalize.control import WHOLE, IdentityUse

from .faces import FacesConfig
from .personalize import PersonalizeConfig
from .section import Section
from .sections import (
    PHOTOGRAPH_FIELDS,
    BaseModelConfig,
    ExecutionConfig,
    GenerateConfig,
    RunConfig,
    S3Config,
    ScoreConfig,
)


class NightlyConfig(Section):
    """Everything that one nightly run needs to know."""

    name: str = Field(
        "nightly", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of this kind of run."
    )
    identities: str = Field(
        "miniature:samples",
        min_length=1,
        description="Who: identities.csv or .parquet (here or in S3), a folder of photos, 'miniature:samples' for the "
        "sample people, or 'miniature:held-out:16' for so many of the people that studies report on.",
    )
    store: str = Field(
        "work/store",
        min_length=1,
        description="Root of the store: a folder, file:///… or s3://bucket/prefix.",
    )
    weights: str = Field(
        "",
        description="Folder or s3://bucket/prefix in which weights that do not ship lie, as faceid models fetch makes "
        "it; empty: DeepFace's own folder, and what extras installed.",
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
        use = IdentityUse(chosen.use_stages, chosen.use_kv, chosen.use_strength)
        return use.within(self.personalize.resolved().stages)

    def digest(self) -> str:
        """sha256 over what decides results: everything but where and how the run executes."""
        decides = self.model_dump(mode="json", exclude={"name", "store", "weights", "execution", "run", "s3"})
        decides["faces"] = self.faces.deciding()
        if self.identity_use().is_whole:
            # The digest is that of the time before there was a choice.
            decides["generate"] = {k: v for k, v in decides["generate"].items() if not k.startswith("use_")}
        del decides["personalize"]["samples_at_once"]
        # Where the base model lies is no part of it, and what is empty was not there before.
        base = decides["base_model"]
        decides["base_model"] = {
            k: v for k, v in base.items() if k != "weights" and (v or k not in ("layout", "digest"))
        }
        if not self.score.of_photographs:
            decides["score"] = {k: v for k, v in decides["score"].items() if k not in PHOTOGRAPH_FIELDS}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
