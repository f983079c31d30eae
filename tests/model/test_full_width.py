"""Stable Diffusion 1.5 at full width, random weights: a training step on a CPU, sample by sample, fits in 20 GB."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

_STEP = """
from faceid_core.diffusion.base import load_base_model
from faceid_core.config.presets import PRESETS
from faceid_core.personalize.trainer import personalize
from tests.helpers.architectures import write_architecture
from tests.helpers.tiny_people import tiny_photo

folder = write_architecture({folder!r}, "sd15", full_width=True)
base = load_base_model(folder)
assert base.description.resolution == 512 and sum(p.numel() for p in base.unet.parameters()) > 850e6
method = PRESETS["semantic-fidelity"].model_copy(update=dict(steps=1, samples_per_step=5))
(result,) = personalize(base, [tiny_photo(1)], method, slots=1, samples_at_once=1)
assert result.curve and result.tokens.tensors["text_encoder"].shape == (5, 2, 2, 768)
print(result.curve[0]["loss_diffusion"], result.seconds)
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_step_at_full_width_fits_in_20_gb(tmp_path):
    code = _STEP.format(folder=str(tmp_path / "sd15"))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # bytes
    assert peak < 20e9, f"{peak / 1e9:.1f} GB"
