"""The models of one worker, each loaded when a stage first asks for it and kept for the rest of the run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from faceid_core.config import NightlyConfig
from faceid_core.config.method import Method
from faceid_core.config.monitoring import LogFormat
from faceid_core.errors import UnusableWeights
from faceid_core.store import S3Settings
from faceid_core.store.keys import StageCall
from faceid_core.weights.base_model import BaseFiles
from faceid_core.weights.describe import MINIATURE
from faceid_core.weights.hub import base_revision
from faceid_core.weights.required import BASE, DETECTOR, PARSER, ModelRef, required
from faceid_core.weights.resolve import LocalModel, resolve

# The modules that load models bring torch, diffusers and transformers: each is imported when a stage first asks for it.

if TYPE_CHECKING:  # loads cv2
    from faceid_core.diffusion.base import BaseModel
    from faceid_core.evaluate.pictures import Pictures
    from faceid_core.evaluate.scorers import Scorers
    from faceid_core.geometry.protocols import FaceDetector, FaceParser
    from faceid_core.personalize.name_prior import NamePrior


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker runs: nothing here decides a result, so nothing here is in a stage key.

    Attributes:
        models: what the configuration needs, with absolute paths, for a worker may have another working directory.
        weights: role of a model -> the digest that the run was planned with.
        scorers: the set of scorers.
        faces_backend: of the photos' detector and parser.
        prior: the call that makes the name prior, if the method needs one.
        log_format: of the log of a worker's own process.
    """

    store: str
    s3: S3Settings
    precision: str
    device: str
    faces_backend: str
    scorers: str
    slots: int
    batch: int
    threads: int
    checkpoint_seconds: float = 0.0
    samples_at_once: int = 0
    models: tuple[ModelRef, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    prior: StageCall | None = None
    log_format: LogFormat = "text"

    @classmethod
    def from_config(
        cls,
        config: NightlyConfig,
        weights: Mapping[str, str],
        *,
        threads: int,
        prior: StageCall | None = None,
    ) -> WorkerSettings:
        """Flatten the configuration for a worker."""
        config = _with_absolute_paths(config)
        return cls(
            store=config.store,
            s3=config.s3.settings(),
            precision=config.base_model.precision,
            device=config.base_model.device,
            faces_backend=config.faces.backend,
            scorers=config.score.scorers,
            slots=config.personalize.slots,
            batch=config.generate.batch,
            threads=threads,
            checkpoint_seconds=config.execution.checkpoint_seconds,
            samples_at_once=config.personalize.samples_at_once,
            models=tuple(required(config)),
            weights=dict(weights),
            prior=prior,
            log_format=config.log.format,
        )

    @property
    def scores_photographs(self) -> bool:
        """Whether the set of scorers is one for photographs."""
        return self.scorers.startswith("photographs")

    def model(self, role: str) -> ModelRef:
        """The model of a role."""
        return next(ref for ref in self.models if ref.role == role)


def _with_absolute_paths(config: NightlyConfig) -> NightlyConfig:
    base, faces = config.base_model, config.faces

    def source(place: str) -> str:
        # A built-in name takes precedence over a folder of the same name.
        built_in = place == MINIATURE or base_revision(place) is not None
        return place if built_in else _absolute(place)

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


class Models:
    """Lazily loaded models, their files checked against the digests that the plan's keys were made with."""

    def __init__(self, settings: WorkerSettings):
        self.settings = settings
        self._unusable_base: UnusableWeights | None = None
        self._slots_of_methods: dict[str, int] = {}
        # The name prior, which the worker reads before stage personalize if the method needs it.
        self.prior: NamePrior | None = None
        # Of the last subjects that were scored, by the shard's digest and the detector: see `stages.score`.
        self.kept_pictures: OrderedDict[tuple[str, str], Pictures] = OrderedDict()

    @cached_property
    def device(self) -> str:
        """'cuda' where asked for and present, else 'cpu'."""
        import torch

        if self.settings.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.settings.device

    @property
    def base(self) -> BaseModel:
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
    def _base(self) -> BaseModel:
        from faceid_core.diffusion.base import load_base_model

        model = self._planned(BASE)
        folder, *checkpoint = model.paths
        return load_base_model(
            BaseFiles(model.name, folder, checkpoint[0] if checkpoint else None),
            device=self.device,
            precision=self.settings.precision,
            digest=model.digest,
        )

    def _planned(self, role: str) -> LocalModel:
        """A model's files, which are those that the run was planned with."""
        return resolve(self.settings.model(role), planned=self.settings.weights[role])

    def measured_slots(self, method: Method) -> int:
        """Slots that fit into this worker's device for a method; measured once."""
        from faceid_core.personalize.trainer import measured_slots

        name = method.model_dump_json()
        if name not in self._slots_of_methods:
            slots = measured_slots(self.base, method, self.settings.samples_at_once, self.prior)
            self._slots_of_methods[name] = slots
        return self._slots_of_methods[name]

    @cached_property
    def _faces(self) -> tuple[FaceDetector, FaceParser]:
        from faceid_core.faces.backends import load_face_models

        detector, parser = self.settings.model(DETECTOR), self.settings.model(PARSER)
        device = self.device if parser.name == "segformer" else "cpu"
        return load_face_models(detector, parser, planned=self.settings.weights, device=device)

    @property
    def detector(self) -> FaceDetector:
        """The photo's face detector."""
        return self._faces[0]

    @property
    def parser(self) -> FaceParser:
        """The crop's face parser."""
        return self._faces[1]

    @cached_property
    def scorers(self) -> Scorers:
        """The configured set of scorers."""
        refs = [ref for ref in self.settings.models if ref.role not in (BASE, DETECTOR, PARSER)]
        if self.settings.scores_photographs:
            from faceid_core.evaluate.photographs import load_photograph_scorers

            return load_photograph_scorers(
                self.settings.scorers,
                refs,
                self.settings.weights,
                detector=self.detector,
                parser=self.parser,
                device=self.device,
            )
        from faceid_core.evaluate.scorers import load_scorers

        for ref in refs:
            self._planned(ref.role)
        return load_scorers(self.settings.scorers)
