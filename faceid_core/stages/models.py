"""The models of one worker, each loaded when a stage first asks for it and kept for the rest of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from faceid_core.config import NightlyConfig
from faceid_core.store import ObjectStore, open_store


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker runs: nothing here decides a result, so nothing here is in a stage key."""

    store: str
    s3: Mapping[str, object]
    base_source: str
    precision: str
    device: str
    faces_backend: str
    face_models: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    scorers: str
    slots: int
    batch: int
    threads: int
    journal_seconds: float = 0.0
    weights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_config(
        cls, config: NightlyConfig, weights: Mapping[str, str], *, threads: int
    ) -> WorkerSettings:
        """Flatten the configuration for a worker."""
        return cls(
            store=config.store,
            s3=config.s3.model_dump(),
            base_source=config.base_model.source,
            precision=config.base_model.precision,
            device=config.base_model.device,
            faces_backend=config.faces.backend,
            face_models={
                "model": config.faces.detector,
                "parser": config.faces.parser,
                "parser_source": config.faces.parser_source,
            },
            scorers=config.score.scorers,
            slots=config.personalize.slots,
            batch=config.generate.batch,
            threads=threads,
            journal_seconds=config.execution.journal_seconds,
            weights=dict(weights),
        )


def open_configured_store(url: str, s3: Mapping[str, object]) -> ObjectStore:
    """Open the store of a configuration; empty S3 values are left to boto3's own sources."""
    if not url.startswith("s3://"):
        return open_store(url)
    from faceid_core.store.s3 import S3Settings

    return open_store(
        url,
        s3=S3Settings(
            endpoint_url=s3["endpoint_url"] or None,
            region=s3["region"] or None,
            path_style=s3["path_style"] or None,
        ),
    )


class Models:
    """Lazily loaded models, their files checked against the digests that the plan's keys were made with."""

    def __init__(self, settings: WorkerSettings):
        self.settings = settings

    @cached_property
    def device(self) -> str:
        """'cuda' where asked for and present, else 'cpu'."""
        import torch

        if self.settings.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.settings.device

    @cached_property
    def base(self):
        """The frozen text-to-image model."""
        from faceid_core.diffusion import load_base_model
        from faceid_core.stages.weights import verify_base

        verify_base(self.settings.base_source, self.settings.weights["base"])
        return load_base_model(
            self.settings.base_source,
            device=self.device,
            precision=self.settings.precision,
            digest=self.settings.weights["base"],
        )

    @cached_property
    def _faces(self):
        from faceid_core.faces.backends import load_faces
        from faceid_core.miniature.scorer_sets import SELECTION, SETS
        from faceid_core.stages.weights import verify_shipped

        if self.settings.faces_backend == "miniature":
            verify_shipped(
                {
                    SETS[SELECTION][role]: self.settings.weights[f"face_{role}"]
                    for role in ("detector", "parser")
                }
            )
        if self.settings.faces_backend == "miniature":
            return load_faces("miniature")
        from faceid_core.stages.weights import verify_faces

        verify_faces(self.settings.faces_backend, self.settings.face_models, self.settings.weights)
        segformer = self.settings.face_models.get("parser") == "segformer"
        return load_faces(
            self.settings.faces_backend,
            **self.settings.face_models,
            device=self.device if segformer else "cpu",
        )

    @property
    def detector(self):
        """The photo's face detector."""
        return self._faces[0]

    @property
    def parser(self):
        """The crop's face parser."""
        return self._faces[1]

    @cached_property
    def scorers(self):
        """The configured set of scorers."""
        from faceid_core.evaluate.scorers import load_scorers
        from faceid_core.miniature.scorer_sets import SETS
        from faceid_core.stages.weights import verify_shipped

        verify_shipped(
            {name: self.settings.weights[role] for role, name in SETS[self.settings.scorers].items()}
        )
        return load_scorers(self.settings.scorers)
