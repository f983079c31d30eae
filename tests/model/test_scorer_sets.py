"""The two sets of scorers share no network, person or seed, and neither is read where the other is asked."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors.torch import load_file

import faceid_core
from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.miniature import scorers
from faceid_core.miniature_training.scorer_data import REPORTING, SELECTION, Training
from faceid_core.miniature_training.train_scorers import TASKS, training_of
from faceid_core.stages.plan import Plan
from faceid_core.studies.definitions import SELECTION_SCORERS
from faceid_core.weights.catalog import MINIATURE_SETS as SETS
from faceid_core.weights.lock import shipped_lock
from faceid_core.weights.required import shipped
from faceid_core.weights.resolve import resolve, resolve_all
from tests.helpers.stage_runs import score_calls_of

CORE = Path(faceid_core.__file__).parent
FOLDERS = {name: set(roles.values()) for name, roles in SETS.items()}


def with_scorers(name: str, faces: str = "miniature") -> NightlyConfig:
    return NightlyConfig(score={"scorers": name}, faces={"backend": faces})


def test_the_sets_share_no_model_no_person_and_no_seed():
    assert not FOLDERS["miniature"] & FOLDERS["miniature-selection"]
    assert not set(REPORTING.people) & set(SELECTION.people)
    for field in fields(Training):
        assert getattr(REPORTING, field.name) != getattr(SELECTION, field.name)


def test_every_scorer_is_trained_with_the_data_of_its_set():
    for name, training in (("miniature", REPORTING), ("miniature-selection", SELECTION)):
        assert {training_of(folder) for folder in FOLDERS[name]} == {training}
    assert set(TASKS) == FOLDERS["miniature"] | FOLDERS["miniature-selection"]


def test_the_sets_have_other_architectures():
    modules = {
        name: {
            type(part)
            for role in ("detector", "parser", "recognizer", "image_text")
            for part in getattr(load_scorers(name), role).network.modules()
            if list(part.children())
        }
        for name in SETS
    }
    shared = modules["miniature"] & modules["miniature-selection"]
    assert {part.__module__.partition(".")[0] for part in shared} == {"torch"}, (
        "only containers may be common"
    )


@pytest.mark.parametrize("name", SETS)
def test_loading_one_set_reads_no_file_of_the_other(name, monkeypatch):
    read = []
    monkeypatch.setattr(scorers, "load_file", lambda path: read.append(Path(path)) or load_file(path))
    assert load_scorers(name).name == name
    assert {path.parent.name for path in read} == FOLDERS[name]


def test_an_unknown_set_is_refused():
    with pytest.raises(ConfigurationError, match="miniature, miniature-selection"):
        load_scorers("clip")


@pytest.mark.parametrize("name", SETS)
def test_the_digests_are_those_of_the_set_and_the_photos_keep_theirs(name):
    digests = resolve_all(with_scorers(name)).digests
    lock = shipped_lock()
    assert {role: digests[role] for role in SETS[name]} == {
        role: lock.digest(folder) for role, folder in SETS[name].items()
    }
    assert digests["face_detector"] == lock.digest("detector")
    assert digests["face_parser"] == lock.digest("parser")
    for folder in FOLDERS[name]:
        resolve(shipped("scorer", folder), planned=lock.digest(folder))


def test_another_set_is_another_key_of_every_metric():
    keys = {}
    for name in SETS:
        plan = Plan.from_config(with_scorers(name))
        keys[name] = {call.stage: call.key for call in score_calls_of(plan).values()}
    ours, theirs = keys.values()
    assert len(ours) == 6 and not set(ours.values()) & set(theirs.values())


def test_training_and_its_own_criterion_import_no_scorer():
    files = [*(CORE / "personalize").glob("*.py"), CORE / "miniature_training" / "tune.py"]
    assert len(files) > 5
    for file in files:
        names = {
            f"{node.module or ''}.{alias.name}"
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not [name for name in names if "scorer" in name or "metrics" in name], file


def test_choosing_asks_the_selection_set_only():
    source = (CORE / "miniature_training" / "tune_scores.py").read_text("utf-8")
    asked = [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_scorers"
    ]
    assert asked and set(asked) <= set(SELECTION_SCORERS)
    assert "reporting" not in source


def test_photos_are_prepared_without_the_set_that_reports():
    """Importing the photos' detector and parser brings no reporting module in; nor do the stages before score."""
    reporting = {path.stem for path in CORE.glob("miniature*/reporting_*.py")}
    assert len(reporting) >= 3
    rooms = [*(CORE / "faces").glob("*.py"), CORE / "miniature" / "scorers.py"]
    rooms += [path for path in (CORE / "stages").glob("*.py") if path.stem != "score"]
    for file in rooms:
        assert not [name for name in reporting if name in file.read_text("utf-8")], file


def test_models_exchanged_during_a_run_are_not_used_under_the_planned_digest():
    with pytest.raises(ConfigurationError, match="reporting_parser changed since the run was planned"):
        resolve(shipped("parser", "reporting_parser"), planned="0" * 64)
