"""A run's stages on a photograph, with the detector, parser and limits of its configuration, as workers run them."""

import json

import numpy as np
import pytest
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.geometry.align import FRAMINGS
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import detect, mask, parse
from faceid_core.stages.work import Subject
from faceid_core.store.keys import sha256_hex
from faceid_core.store.manifest import Manifest
from tests.code.test_faces_parsers import folder  # noqa: F401 - a fixture: a SegFormer's folder
from tests.helpers.stage_runs import run_stage


def planned(**faces):
    """Plan, models and a person as a run with these faces has them."""
    plan = Plan.from_config(NightlyConfig(faces={"backend": "deepface", **faces}))
    models = Models(WorkerSettings.from_config(plan.config, plan.weights, threads=0))
    return plan, models, Subject("person", "p", "identities/p", "person", photo_digest="a" * 64)


def call(module, plan, subject):
    """The one stage call that a module plans for a person whose earlier stages are done."""
    names = {"detect": ("crop.png", "valid.png", "detection.json"), "parse": ("labels.png",)}
    for stage, outputs in names.items():
        rows = [{"name": n, "digest": sha256_hex(n.encode()), "size": 1, "media_type": "x"} for n in outputs]
        subject.manifests[stage] = Manifest(stage, "b" * 64, {"outputs": rows}, {})
    (work,) = module.plan_works(plan, subject)
    return work.call


def through(plan, models, subject, image):
    """Detect, parse and mask, with the parameters that are in the keys."""
    made = run_stage(
        "detect",
        call(detect, plan, subject).parameters,
        {"p": {"photo": photos.encode_png(image)}},
        models,
    )["p"]
    if "rejection.json" in made:
        return made
    made |= run_stage(
        "parse",
        call(parse, plan, subject).parameters,
        {"p": {"crop": made["crop.png"], "detection": made["detection.json"]}},
        models,
    )["p"]
    return (
        made
        | run_stage(
            "mask",
            call(mask, plan, subject).parameters,
            {"p": {"labels": made["labels.png"], "valid": made["valid.png"]}},
            models,
        )["p"]
    )


def test_a_photograph_as_a_portrait_with_hair():
    # Landmarks would share the alignment with the eyes.
    made = through(*planned(mask_region="face_hair", detector="opencv"), data.astronaut())
    facts = json.loads(made["detection.json"])
    eyes = (
        np.array(facts["eyes"]) @ np.array(facts["transform"])[:, :2].T + np.array(facts["transform"])[:, 2]
    )
    assert np.allclose(eyes / photos.decode_png(made["crop.png"]).shape[0], FRAMINGS["portrait"], atol=1e-3)
    assert json.loads(made["parser.json"]) == {"parser": "grabcut", "approximate": True}
    assert 0.1 < json.loads(made["verdict.json"])["area_share"] < 0.35
    assert facts["quality"]["clipped_share"] < 0.05


def test_the_limits_reject_and_are_in_the_key():
    burnt = np.clip(data.astronaut().astype(int) * 17 // 10, 0, 255).astype(np.uint8)
    plan, models, subject = planned(max_clipped_share=0.4)
    refused = json.loads(through(plan, models, subject, burnt)["rejection.json"])
    assert refused["reason"] == "badly_exposed" and refused["threshold"] == 0.4
    keys = {
        call(detect, planned(**faces)[0], subject).key
        for faces in ({}, {"max_clipped_share": 0.4}, {"max_yaw_degrees": 20}, {"framing": "close_up"})
    }
    assert len(keys) == 4


def test_what_is_for_photographs_leaves_the_miniatures_keys_alone():
    usual = Plan.from_config(NightlyConfig())
    other = Plan.from_config(
        NightlyConfig(faces={"detector": "dlib", "parser": "ellipse", "max_yaw_degrees": 20})
    )
    subject = planned()[2]
    for module in (detect, parse, mask):
        assert call(module, usual, subject).key == call(module, other, subject).key
    assert usual.config.digest() == other.config.digest()


def test_a_segformer_parses_and_judges_what_is_covered(folder):  # noqa: F811
    plan, models, subject = planned(parser="segformer", parser_source=str(folder))
    made = through(plan, models, subject, data.astronaut())
    about = json.loads(made["parser.json"])
    assert about["parser"].startswith("segformer:") and not about["approximate"]
    # Random weights label at random: the face does not look like one, and the gate says so or measures it.
    refused = json.loads(made.get("rejection.json", b"{}"))
    assert refused.get("reason") in ("face_covered", "mask_empty") or "covered_share" in json.loads(
        made["verdict.json"]
    )


def test_weights_that_are_exchanged_during_a_night_are_noticed(folder, tmp_path):  # noqa: F811
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    _, models, _ = planned(parser="segformer", parser_source=str(tmp_path))
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(preprocessor.read_text().replace("true", "false"))
    with pytest.raises(ConfigurationError, match="segformer changed since the run was planned"):
        _ = models.parser
