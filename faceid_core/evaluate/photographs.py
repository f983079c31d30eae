"""Puts the scorers of photographs together: which model plays which role.

Of the two sets `photographs` reports, and `photographs-selection` may choose settings. What one of them asks the other
does not: the configuration refuses a recognizer or a CLIP in both. Faces are found, and crops parsed, by the models that
prepared the photos; no model here is trained on the people of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faceid_core.geometry.protocols import FaceDetector, FaceParser
from faceid_core.weights.required import ModelRef
from faceid_core.weights.resolve import resolve

from .attributes import load_attributes
from .clip import load_clip
from .recognizers import CUTS, load_recognizer
from .safety import load_safety_checker
from .scorers import Scorers, SecondRecognizer

# Side of the crops in which the background is compared with the photo's.
PARSER_PIXELS = 256


def load_photograph_scorers(
    name: str,
    refs: Sequence[ModelRef],
    planned: Mapping[str, str],
    *,
    detector: FaceDetector,
    parser: FaceParser,
    device: str,
) -> Scorers:
    """The set with its models in memory; a role that no metric asks stays empty.

    Args:
        name: of the set.
        refs: its models, as `required` gives them.
        planned: role -> digest that the stage keys were made with.
        detector, parser: the photos' own.
        device: of the CLIP models and the safety checker; DeepFace's compute where onnxruntime does.

    Raises:
        MissingWeights, DamagedWeights: a file is not there, or is not the planned one.
    """
    names = {ref.role: ref.name for ref in refs}
    paths = {ref.role: resolve(ref, planned=planned[ref.role]).paths for ref in refs}
    # Two roles may be played by one CLIP model, which is loaded once.
    clips = {
        names[role]: paths[role][0].parent
        for role in ("image_text", "second_image_text", "embedder")
        if role in paths
    }
    clips = {clip: load_clip(clip, folder, device=device) for clip, folder in clips.items()}
    first, second = (
        load_recognizer(names[role], paths[role]) if role in paths else None
        for role in ("recognizer", "second_recognizer")
    )
    cut = first.cut if first is not None else CUTS["Dlib"]  # without a recognizer no crop is cut for it
    return Scorers(
        name=name,
        detector=detector,
        parser=parser,
        recognizer=first,
        image_text=clips.get(names.get("image_text")),
        namer=None,
        parser_pixels=PARSER_PIXELS,
        recognizer_pixels=cut.pixels,
        recognizer_eye_targets=cut.eyes,
        embedder=clips.get(names.get("embedder")),
        attributes=load_attributes(paths["attributes"]) if "attributes" in paths else None,
        second=None if second is None else SecondRecognizer(second, second.cut.pixels, second.cut.eyes),
        second_image_text=clips.get(names.get("second_image_text")),
        safety=load_safety_checker(paths["safety_checker"], device=device) if "safety_checker" in paths else None,
    )
