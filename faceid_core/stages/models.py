"""The models of one worker, each loaded when a stage first asks for it and kept for the rest of the run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from faceid_core.config import NightlyConfig
from faceid_core.errors import UnusableWeights
from faceid_core.evaluate.photographs import Chosen
from faceid_core.personalize.method import Method
from faceid_core.stages.weights import base_weights, chosen_scorers, face_models
from faceid_core.store import ObjectStore, open_store
from faceid_core.weights.base_model import find_base, hub_model
from faceid_core.weights.describe import MINIATURE

if TYPE_CHECKING:  # loads cv2
    from faceid_core.evaluate.pictures import Pictures


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker runs: nothing here decides a result, so nothing here is in a stage key."""

    store: str
    s3: Mapping[str, object]
    base_source: str
    precision: str
    device: str
    faces_backend: str
    face_models: Mapping[str, object] = field(default_factory=dict, kw_only=True)
    scorers: str
    slots: int
    batch: int
    threads: int
    journal_seconds: float = 0.0
    samples_at_once: int = 0
    base_layout: str = ""
    base_weights: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    photograph_scorers: Chosen | None = None

    @classmethod
    def from_config(
        cls, config: NightlyConfig, weights: Mapping[str, str], *, threads: int
    ) -> WorkerSettings:
        """Flatten the configuration for a worker, which may have another working directory."""
        config = _from_anywhere(config)
        return cls(
            store=config.store,
            s3=config.s3.model_dump(),
            base_source=config.base_model.source,
            precision=config.base_model.precision,
            device=config.base_model.device,
            faces_backend=config.faces.backend,
            face_models=face_models(config),
            scorers=config.score.scorers,
            slots=config.personalize.slots,
            batch=config.generate.batch,
            threads=threads,
            journal_seconds=config.execution.checkpoint_seconds,
            samples_at_once=config.personalize.samples_at_once,
            base_layout=config.base_model.layout,
            base_weights=base_weights(config),
            weights=dict(weights),
            photograph_scorers=chosen_scorers(config),
        )


def _from_anywhere(config: NightlyConfig) -> NightlyConfig:
    """The configuration with absolute addresses of local folders."""
    base, faces = config.base_model, config.faces

    def source(place: str) -> str:
        named = place == MINIATURE or hub_model(place) is not None
        return place if named else _absolute(place)  # a known name is none of a folder called like it

    return config.model_copy(
        update={
            "store": _absolute(config.store),
            "weights": _absolute(config.weights),
            "base_model": base.model_copy(
                update={
                    "source": source(base.source),
                    "layout": source(base.layout),
                    "weights": _absolute(base.weights),
                }
            ),
            "faces": faces.model_copy(update={"parser_source": _absolute(faces.parser_source)}),
        }
    )


def _absolute(place: str) -> str:
    """A folder's absolute path; addresses, names of models and '' as they are."""
    return place if "://" in place or not place or not Path(place).exists() else str(Path(place).resolve())


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
            path_style=s3["path_style"],
            kms_key=s3["kms_key"] or None,
            checksums=s3["checksums"],
            attempts=s3["attempts"],
            timeout_seconds=s3["timeout_seconds"],
            connections=s3["connections"],
        ),
    )


class Models:
    """Lazily loaded models, their files checked against the digests that the plan's keys were made with."""

    def __init__(self, settings: WorkerSettings):
        self.settings = settings
        self.kept_pictures: OrderedDict[tuple[str, str], Pictures] = OrderedDict()
        self._slots_of_methods: dict[str, int] = {}
        self._unusable_base: UnusableWeights | None = None

    @cached_property
    def device(self) -> str:
        """'cuda' where asked for and present, else 'cpu'."""
        import torch

        if self.settings.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.settings.device

    @property
    def base(self):
        """The frozen text-to-image model.

        Raises:
            FaceidError: it cannot be loaded. One that cannot be computed with is not loaded again for the next person.
        """
        if self._unusable_base is not None:
            raise self._unusable_base
        try:
            return self._base
        except UnusableWeights as error:
            self._unusable_base = error
            raise

    @cached_property
    def _base(self):
        from faceid_core.diffusion import load_base_model
        from faceid_core.stages.weights import verify_base

        chosen = self.settings
        files = find_base(
            chosen.base_source, layout=chosen.base_layout, weights=chosen.base_weights, s3=chosen.s3
        )
        verify_base(files, chosen.weights["base"])
        return load_base_model(
            files, device=self.device, precision=chosen.precision, digest=chosen.weights["base"]
        )

    def measured_slots(self, method: Method) -> int:
        """Slots that fit into this worker's device for a method; measured once."""
        from faceid_core.personalize.trainer import measured_slots

        name = method.model_dump_json()
        if name not in self._slots_of_methods:
            slots = measured_slots(self.base, method, self.settings.samples_at_once)
            self._slots_of_methods[name] = slots
        return self._slots_of_methods[name]

    @cached_property
    def _faces(self):
        from faceid_core.faces.backends import load_faces
        from faceid_core.stages.weights import verify_shipped
        from faceid_core.weights.miniature_sets import SELECTION, SETS

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
        if self.settings.photograph_scorers is not None:
            return self._photograph_scorers(self.settings.photograph_scorers)
        from faceid_core.evaluate.scorers import load_scorers
        from faceid_core.stages.weights import verify_shipped
        from faceid_core.weights.miniature_sets import SETS

        verify_shipped(
            {name: self.settings.weights[role] for role, name in SETS[self.settings.scorers].items()}
        )
        return load_scorers(self.settings.scorers)

    def _photograph_scorers(self, chosen: Chosen):
        from faceid_core.evaluate import photographs

        roles = chosen.models()
        return photographs.load(
            chosen,
            {role: digest for role, digest in self.settings.weights.items() if role in roles},
            detector=self.detector,
            parser=self.parser,
            device=self.device,
        )
