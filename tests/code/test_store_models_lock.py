"""`models.lock`: digests follow content, missing and changed files are named, big files are hashed once."""

import json
import os

import pytest

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.weights import lock as models_lock
from faceid_core.weights.lock import DamagedWeights, ModelsLock, digest_folder, write_lock


@pytest.fixture
def folder(tmp_path):
    """A model as diffusers lays it out, with things that do not count."""
    for name, text in {
        "model_index.json": "{}",
        "unet/config.json": '{"a": 1}',
        "unet/model.safetensors": "weights",
        "tokenizer/merges.txt": "a b",
        "scheduler/scheduler_config.json": "{}",
        "README.md": "about",
        ".cache/note.json": "x",
        "unet/.DS_Store": "x",
    }.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text(text)
    return tmp_path / "model"


def test_golden_digest(folder):
    # A change here would change every key of every stage that uses a model.
    assert digest_folder(folder) == "a37112dddc8fdbd9728a9be398fd83f6801dcaca5410481b49afdd11935b1f1e"


def test_a_lock_names_every_file_that_counts(folder, tmp_path):
    lock = write_lock(tmp_path / "models.lock", {"pipeline": folder})
    assert sorted(lock.models["pipeline"]) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/model.safetensors",
    ]
    assert lock.models["pipeline"]["tokenizer/merges.txt"]["size"] == 3
    again = ModelsLock.load(tmp_path / "models.lock")
    assert again.digest("pipeline") == lock.digest("pipeline") == digest_folder(folder)
    again.verify("pipeline", folder)


def test_the_digest_follows_content_and_names_and_nothing_else(folder, tmp_path):
    before = digest_folder(folder)
    (folder / "README.md").write_text("another story")
    os.utime(folder / "model_index.json", (1, 1))
    moved = folder.rename(tmp_path / "elsewhere")
    assert digest_folder(moved) == before
    for name in ("tokenizer/merges.txt", "scheduler/scheduler_config.json", "unet/config.json"):
        text = (moved / name).read_text()
        (moved / name).write_text(text + " ")
        assert digest_folder(moved) != before
        (moved / name).write_text(text)
    (moved / "unet/config.json").rename(moved / "unet/config2.json")
    assert digest_folder(moved) != before


def test_locking_one_model_keeps_the_others(folder, tmp_path):
    (tmp_path / "parser").mkdir()
    (tmp_path / "parser" / "model.safetensors").write_text("p")
    first = write_lock(tmp_path / "models.lock", {"pipeline": folder})
    both = write_lock(tmp_path / "models.lock", {"parser": tmp_path / "parser"})
    assert both.digest("pipeline") == first.digest("pipeline") != both.digest("parser")
    with pytest.raises(MissingWeights, match=r"'detector' \(it names parser, pipeline\)"):
        both.digest("detector")


def test_verify_names_what_is_missing_changed_or_new(folder, tmp_path):
    lock = write_lock(tmp_path / "models.lock", {"pipeline": folder})
    weights = folder / "unet/model.safetensors"
    weights.write_text("weighty")  # the same size
    with pytest.raises(
        DamagedWeights, match=rf"model pipeline: unet/model.safetensors in {folder}.*faceid models lock"
    ):
        lock.verify("pipeline", folder)
    weights.unlink()
    with pytest.raises(MissingWeights, match=rf"model pipeline: unet/model.safetensors is not in {folder}"):
        lock.verify("pipeline", folder)
    weights.write_text("weights")
    (folder / "unet/extra.json").write_text("{}")
    with pytest.raises(DamagedWeights, match=r"unet/extra.json in .* is not locked"):
        lock.verify("pipeline", folder)


def test_a_lock_that_is_none_is_told_with_what_to_do(tmp_path):
    with pytest.raises(MissingWeights, match="faceid models lock"):
        ModelsLock.load(tmp_path / "models.lock")
    for text in (
        "",
        "{}",
        '{"format": "faceid-models-lock/1", "models": {"a": {"b": {"sha256": "x", "size": 1}}}}',
    ):
        (tmp_path / "models.lock").write_text(text)
        with pytest.raises(ConfigurationError, match="faceid models lock"):
            ModelsLock.load(tmp_path / "models.lock")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(MissingWeights, match="holds no model files"):
            digest_folder(nothing)


def test_a_large_file_is_read_once_until_it_changes(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models_lock, "_LEAST_NOTED_BYTES", 0)
    monkeypatch.setattr(models_lock, "_seen", {})
    before = digest_folder(folder)
    assert len(json.loads((tmp_path / "cache/faceid/file-digests.json").read_text())) == 5

    monkeypatch.setattr(models_lock, "_seen", {})  # as in a new process
    with monkeypatch.context() as patch:
        patch.setattr(models_lock.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert digest_folder(folder) == before
    (folder / "unet/model.safetensors").write_text("weights, changed")
    assert digest_folder(folder) != before

    (tmp_path / "cache/faceid/file-digests.json").write_text("[not notes")
    assert digest_folder(folder) != before
