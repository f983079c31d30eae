"""The two sets of scorers for photographs: which model plays which role, and how they are put together.

`photographs` reports; `photographs-selection` may choose settings. What one of them asks the other does not: the
configuration refuses a recognizer or a CLIP in both. Faces are found, and crops parsed, by the models that prepared
the photos; none of these is trained on anybody here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.weights.catalog import ATTRIBUTES, CLIPS, RECOGNIZERS, KnownModel
from faceid_core.weights.locate import WeightsPlace, digest_of, entry_of, files_of
from faceid_core.weights.lock import DamagedWeights

if TYPE_CHECKING:
    from faceid_core.geometry.protocols import FaceDetector, FaceParser

    from .scorers import Scorers

REPORTING, SELECTION = "photographs", "photographs-selection"
SETS = (REPORTING, SELECTION)
# Raised when the same files would give other values: when crops, normalization or preprocessing change.
VERSIONS = {"recognizer": 1, "clip": 1, "attributes": 1}
# Side of the crops in which the background is compared with the photo's.
PARSER_PIXELS = 256
# Metrics of the miniature's sets ask their image-text scorer what it sees; nothing names concepts in photographs.
_WITHOUT_NAMER = {"concepts": ("image_text",), "leakage": ("image_text",)}
# Roles that the models of the photos play.
_OF_THE_PHOTOS = {"detector": "face_detector", "parser": "face_parser"}


@dataclass(frozen=True)
class Chosen:
    """Which models score photographs.

    Args:
        name: of the set, one of `SETS`.
        recognizers: one or two of DeepFace's names; the second one's values stand beside the first one's.
        clips: one or two of CLIP's names.
        place: where their weights lie.
    """

    name: str
    recognizers: tuple[str, ...]
    clips: tuple[str, ...]
    place: WeightsPlace = field(default_factory=WeightsPlace)

    def models(self) -> dict[str, tuple[str, str, tuple[KnownModel, ...]]]:
        """Role -> (kind, name for tables, models)."""
        roles = {
            role: ("recognizer", f"deepface-{name}", (RECOGNIZERS[name],))
            for role, name in zip(("recognizer", "second_recognizer"), self.recognizers, strict=False)
        }
        roles |= {
            role: ("clip", f"clip-{name}", (CLIPS[name],))
            for role, name in zip(("image_text", "second_image_text"), self.clips, strict=False)
        }
        roles["embedder"] = roles["image_text"]
        roles["attributes"] = ("attributes", "deepface-Age+Gender", tuple(ATTRIBUTES.values()))
        return roles

    def names(self) -> dict[str, str]:
        """Role -> name and version, for tables."""
        return {role: f"{name}@{VERSIONS[kind]}" for role, (kind, name, _) in self.models().items()}

    def digests(self, roles: Collection[str]) -> dict[str, str]:
        """Role -> digest of its files and of the version of the code that asks them.

        Raises:
            MissingWeights, DamagedWeights: see `locate.entry_of`.
        """
        found = {}
        for role, (kind, name, models) in self.models().items():
            if role in roles:
                files = [digest_of(entry_of(model, self.place)) for model in models]
                found[role] = sha256_hex(canonical_json([name, VERSIONS[kind], files]))
        return found


def key_roles(metric: str, roles: Collection[str]) -> dict[str, str]:
    """The roles of a metric in a stage key -> the roles of `Plan.weights` that play them."""
    left_out = _WITHOUT_NAMER.get(metric, ())
    return {role: _OF_THE_PHOTOS.get(role, role) for role in roles if role not in left_out}


def load(
    chosen: Chosen,
    planned: Mapping[str, str],
    *,
    detector: FaceDetector,
    parser: FaceParser,
    device: str,
) -> Scorers:
    """The set with its models in memory; a role for which nothing was planned stays empty.

    Args:
        planned: role -> digest that the stage keys were made with.
        detector, parser: the photos' own.
        device: of the CLIP models; DeepFace's compute where onnxruntime does.

    Raises:
        MissingWeights, DamagedWeights: a file is not there, or is not the planned one.
    """
    from .attributes import load_attributes
    from .clip import load_clip
    from .recognizers import CUTS, load_recognizer
    from .scorers import Scorers, SecondRecognizer

    now = chosen.digests(planned)
    changed = [role for role, digest in now.items() if planned[role] != digest]
    if changed:
        raise DamagedWeights(
            f"the weights of {', '.join(changed)} changed since the run was planned; start it again"
        )
    folders = {
        role: _folders(models, chosen.place)
        for role, (_, _, models) in chosen.models().items()
        if role in now
    }
    clips = {
        name: load_clip(name, folders[role][0], device=device)
        for role, name in zip(("image_text", "second_image_text"), chosen.clips, strict=False)
        if role in folders
    }
    if "embedder" in folders and chosen.clips[0] not in clips:
        clips[chosen.clips[0]] = load_clip(chosen.clips[0], folders["embedder"][0], device=device)
    recognizers = {
        role: load_recognizer(name, folders[role])
        for role, name in zip(("recognizer", "second_recognizer"), chosen.recognizers, strict=False)
        if role in folders
    }
    first, second = recognizers.get("recognizer"), recognizers.get("second_recognizer")
    cut = CUTS[chosen.recognizers[0]]
    return Scorers(
        name=chosen.name,
        detector=detector,
        parser=parser,
        recognizer=first,
        image_text=clips.get(chosen.clips[0]) if "image_text" in folders else None,
        namer=None,
        parser_pixels=PARSER_PIXELS,
        recognizer_pixels=cut.pixels,
        recognizer_eye_targets=cut.eyes,
        embedder=clips.get(chosen.clips[0]) if "embedder" in folders else None,
        attributes=load_attributes(folders["attributes"]) if "attributes" in folders else None,
        second=None if second is None else SecondRecognizer(second, second.cut.pixels, second.cut.eyes),
        second_image_text=clips.get(chosen.clips[1]) if "second_image_text" in folders else None,
    )


def _folders(models: tuple[KnownModel, ...], place: WeightsPlace) -> tuple[Path, ...]:
    """The folders in which the models' files lie, each file checked."""
    folders = []
    for model in models:
        digest = digest_of(entry_of(model, place))
        folders += [path.parent for path in files_of(model, place, digest=digest)]
    return tuple(dict.fromkeys(folders))
