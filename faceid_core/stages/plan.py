"""The plan of a run: the parsed configuration with every weight digest, enough to compute all stage keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faceid_core.config import NightlyConfig
from faceid_core.config.method import Method
from faceid_core.evaluate.grid import PromptGrid, load_grid
from faceid_core.personalize.known_names import prior_names
from faceid_core.stages.name_prior import prior_call
from faceid_core.stages.work import STAGES, Source, StageSpec, Subject, Work
from faceid_core.store.cache import Manifest
from faceid_core.store.keys import StageCall
from faceid_core.weights.describe import Description
from faceid_core.weights.required import BASE
from faceid_core.weights.resolve import resolve_all


@dataclass(frozen=True)
class Plan:
    """Everything that decides results, in memory, without a model loaded.

    Attributes:
        weights: role (base, detector, parser, recognizer, image_text) -> the digest of its files.
        base: what the base model is.
        tokenizers: text encoder -> the folder of its tokenizer.
        scorer_titles: name and version of the photographs' scorers by role, for tables.
        prior: the call that makes the name prior, if the method needs one.
        floors: class word -> the manifest of its pictures, against which people's identity floor is measured; filled
            in as the run goes.
    """

    config: NightlyConfig
    method: Method
    grid: PromptGrid
    weights: Mapping[str, str]
    base: Description
    tokenizers: Mapping[str, Path]
    scorer_titles: Mapping[str, str] = field(default_factory=dict)
    prior: StageCall | None = None
    floors: dict[str, Manifest] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: NightlyConfig) -> Plan:
        """Resolve presets, grid and weights.

        Raises:
            ConfigurationError: the grid or the method cannot be used.
            MissingWeights: a model's files are absent.
        """
        found = resolve_all(config)
        method = config.method()
        prior = None
        if method.needs_prior:
            names = prior_names(config.personalize.names_file, found.base.name)
            prior = prior_call(names, method, found.digests[BASE], config.base_model.precision)
        return cls(
            config=config,
            method=method,
            grid=load_grid(config.generate.grid),
            weights=found.digests,
            base=found.base,
            tokenizers=found.tokenizers,
            scorer_titles=found.titles,
            prior=prior,
        )

    @property
    def crop_pixels(self) -> int:
        """The base model's picture side, at which faces are aligned."""
        return self.base.resolution

    @property
    def reads_sizes(self) -> bool:
        """Whether the base model is told the sizes of pictures (SDXL), so that training needs the photo's."""
        return self.base.pooled_width > 0

    def forces(self, stage: str, subject: Subject) -> bool:
        """Whether the run computes a subject's stage again, whatever the store holds."""
        run = self.config.run
        if not run.force or subject.kind != "person":
            return False
        return run.from_stage is None or STAGES.index(stage) >= STAGES.index(run.from_stage)

    def work(
        self,
        subject: Subject,
        spec: StageSpec,
        parameters: Mapping[str, Any],
        sources: Mapping[str, Source],
        roles: Collection[str] | Mapping[str, str],
        *,
        precision: str = "float32",
        result: str | None = None,
    ) -> Work:
        """Bind a stage call to a subject, with the digests of the sources and of the models in `roles`.

        Args:
            roles: of `weights`; as a mapping, from the name that a model has in the key to its role.
            result: the name under which the subject keeps the manifest; the stage's by default.
        """
        named = roles if isinstance(roles, Mapping) else {role: role for role in roles}
        call = StageCall(
            stage=spec.name,
            version=spec.version,
            parameters=dict(parameters),
            precision=precision,
            inputs={name: source.digest for name, source in sources.items()},
            weights={name: self.weights[role] for name, role in named.items()},
        )
        return Work(subject.name, subject.scope, call, sources, result or spec.name)
