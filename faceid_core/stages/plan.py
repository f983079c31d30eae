"""The plan of a run: the parsed configuration with every weight digest, enough to compute all stage keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.evaluate.grid import PromptGrid, load_grid
from faceid_core.personalize.method import Method
from faceid_core.stages.work import Source, Subject, Work, call_for
from faceid_core.store.cache import Manifest
from faceid_core.weights.describe import Description
from faceid_core.weights.resolve import resolve_all


@dataclass(frozen=True)
class Plan:
    """Everything that decides results, in memory, without a model loaded.

    `weights` maps a role (base, detector, parser, recognizer, image_text) to the digest of its files;
    `scorer_titles` are for tables: name and version of the photographs' scorers by role;
    `base` says what the base model is, `tokenizers` where its text encoders' tokenizers lie. `floors` is filled in as
    the run goes: the manifest of each class word's pictures, against which people's identity floor is measured.
    """

    config: NightlyConfig
    method: Method
    grid: PromptGrid
    weights: Mapping[str, str]
    base: Description
    tokenizers: Mapping[str, Path]
    scorer_titles: Mapping[str, str] = field(default_factory=dict)
    floors: dict[str, Manifest] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: NightlyConfig) -> Plan:
        """Resolve presets, grid and weights.

        Raises:
            ConfigurationError: the grid or the method cannot be used.
            MissingWeights: a model's files are absent.
        """
        found = resolve_all(config)
        return cls(
            config=config,
            method=config.personalize.resolved(),
            grid=load_grid(config.generate.grid),
            weights=found.digests,
            base=found.base,
            tokenizers=found.tokenizers,
            scorer_titles=found.titles,
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
        """Whether the run computes the stage anew for a subject, whatever the store holds."""
        from faceid_core.stages import STAGES

        run = self.config.run
        if not run.force or subject.kind != "person":
            return False
        return run.from_stage is None or STAGES.index(stage) >= STAGES.index(run.from_stage)

    def works(self, stage: str, subject: Subject) -> list[Work]:
        """Every piece of work of a stage ('score' is all metrics) for one subject whose inputs are there."""
        from faceid_core.stages import detect, generate, mask, parse, personalize, score

        module = {
            "detect": detect, "parse": parse, "mask": mask,
            "personalize": personalize, "generate": generate, "score": score,
        }[stage]  # fmt: skip
        return module.plan_works(self, subject)

    def work(
        self,
        subject: Subject,
        stage: str,
        version: int,
        parameters: Mapping,
        sources: Mapping[str, Source],
        roles: Collection[str] | Mapping[str, str],
        *,
        precision: str = "float32",
        result: str | None = None,
    ) -> Work:
        """Bind a stage call to a subject, with the digests of the models in `roles`.

        Args:
            roles: of `weights`; as a mapping, from the name that a model has in the key to its role.
        """
        named = roles if isinstance(roles, Mapping) else {role: role for role in roles}
        weights = {name: self.weights[role] for name, role in named.items()}
        call = call_for(stage, version, parameters, sources, weights, precision)
        return Work(
            subject=subject.name, scope=subject.scope, call=call, sources=sources, result=result or stage
        )
