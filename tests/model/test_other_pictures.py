"""The criterion by which settings are chosen knows a person whom the model knows, and asks no scorer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import load_base_model
from faceid_core.miniature.people import name_of
from faceid_core.miniature_training import other_pictures as module
from faceid_core.miniature_training.other_pictures import explain, other_pictures
from faceid_core.miniature_training.tune import training_photos, try_method


@pytest.fixture(scope="module")
def base():
    return load_base_model()


def test_the_right_name_explains_a_named_persons_pictures_best(base):
    pictures = other_pictures(base, 7, clothes="striped shirt", count=6)
    assert all(prompt.count("V*") == 1 and "striped shirt" not in prompt for prompt in pictures.prompts)
    assert 0.05 < float(pictures.face.mean()) < 0.6
    right, wrong, class_word = (explain(base, who, pictures) for who in (name_of(7), name_of(8), "person"))
    assert right.face < class_word.face < wrong.face
    assert right.whole < wrong.whole
    assert right == explain(base, name_of(7), pictures), "noise is settled, so subjects are paired"


def test_a_few_steps_of_training_explain_more_than_the_class_word(base):
    (photo,) = training_photos([8001])
    pictures = {"8001": other_pictures(base, 8001, clothes="striped shirt", count=6)}
    floor = explain(base, "person", pictures["8001"])
    chosen = {"steps": 12, "samples_per_step": 10, "learning_rate": 0.06}
    method = PRESETS["semantic-fidelity"].model_copy(update=chosen)
    found, seconds, _ = try_method(base, method, [photo], pictures)
    assert found.face < floor.face and seconds > 0


def test_settings_are_chosen_without_the_scorers_that_report():
    for file in (module.__file__, Path(module.__file__).with_name("tune.py")):
        names = {
            f"{getattr(node, 'module', '') or ''}.{alias.name}"
            for node in ast.walk(ast.parse(Path(file).read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert names
        assert not [name for name in names if "scorer" in name or "metrics" in name], file
