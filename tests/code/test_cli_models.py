"""faceid models lock, on copies: the lock names the files as they are, and messages name commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from faceid_core.errors import MissingWeights
from faceid_core.weights import describe
from faceid_core.weights import lock as models_lock
from faceid_core.weights.lock import DamagedWeights, ModelsLock
from flows.cli import cli


def test_lock_writes_the_digests_of_every_model_folder(tmp_path, monkeypatch):
    for name in ("detector", "parser"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    monkeypatch.setattr(models_lock, "SHIPPED", tmp_path / "models.lock")
    told = CliRunner().invoke(cli, ["models", "lock"], catch_exceptions=False)
    assert told.exit_code == 0 and f"wrote {tmp_path / 'models.lock'}" in told.output
    lock = ModelsLock.load(tmp_path / "models.lock")
    for name in ("detector", "parser"):
        assert lock.digest(name) in told.output
        lock.verify(name, tmp_path / name)
    (tmp_path / "parser" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(DamagedWeights):
        lock.verify("parser", tmp_path / "parser")
    again = CliRunner().invoke(cli, ["models", "lock"], catch_exceptions=False).output
    assert lock.digest("detector") in again and lock.digest("parser") not in again


def test_missing_miniature_weights_name_a_command_that_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(describe, "_MINIATURE_FOLDER", tmp_path)
    with pytest.raises(MissingWeights) as caught:
        describe.source_folder(describe.MINIATURE)
    module = re.search(r"python -m ([\w.]+)", str(caught.value)).group(1)
    asked = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, check=False)
    assert asked.returncode == 0, asked.stderr
