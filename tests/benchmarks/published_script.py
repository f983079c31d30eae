"""diffusers' published Textual Inversion script, run as it is, in a process of its own.

Nothing of it is part of this project: its path (`examples/textual_inversion/textual_inversion.py` of the diffusers
sources) is given on the command line. It needs accelerate, transformers, diffusers and torchvision; where the
interpreter lacks torchvision, `script_launcher.py` gives it the one function that it uses. To run it apart:

    python3.11 -m venv script-venv
    script-venv/bin/pip install torch torchvision accelerate transformers diffusers safetensors
    python -m tests.benchmarks throughput --textual-inversion-script PATH --script-python script-venv/bin/python

Leave tensorboard out of that environment: the script would write a log line at every step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from faceid_core.weights.describe import source_folder

from .measuring import seconds_of
from .settings import Place, Settings

MISSING = "give --textual-inversion-script PATH"
_LAUNCHER = Path(__file__).with_name("script_launcher.py")
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_NEVER = 10**9
TOKEN = "<v>"


@dataclass(frozen=True)
class PublishedScript:
    """The script with what all its runs share.

    Attributes:
        photos: a folder with one person's photo and nothing else.
        resolution: side of the training pictures in pixels.
    """

    settings: Settings
    place: Place
    photos: Path
    resolution: int

    def run(self, *, steps: int, batch: int, rate: float = 5e-4, save_every: int = _NEVER) -> Path:
        """Learn the person; returns the folder with `learned_embeds.safetensors`.

        Raises:
            RuntimeError: the script ended with an error; its last lines are in the text.
        """
        out = self.settings.scratch / "script" / f"{self.photos.name}-{batch}-{steps}"
        command = [
            self.settings.script_python or sys.executable,
            str(_LAUNCHER),
            str(self.settings.script),
            *("--pretrained_model_name_or_path", str(source_folder(self.place.base))),
            *("--train_data_dir", str(self.photos)),
            *("--placeholder_token", TOKEN, "--initializer_token", "person"),
            *("--resolution", str(self.resolution), "--train_batch_size", str(batch)),
            *("--max_train_steps", str(steps), "--learning_rate", str(rate), "--lr_warmup_steps", "0"),
            *("--save_steps", str(save_every), "--checkpointing_steps", str(_NEVER)),
            *("--mixed_precision", _MIXED[self.place.precision], "--seed", "0", "--output_dir", str(out)),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, env=self._environment())
        if ended.returncode:
            last = "\n".join(ended.stderr.splitlines()[-8:])
            raise RuntimeError(f"the Textual Inversion script ended with status {ended.returncode}:\n{last}")
        return out

    def seconds_per_step(self, *, batch: int, short: int, long: int) -> float:
        """Seconds of a training step: the difference of two lengths, which takes the start-up out."""
        first = seconds_of(lambda: self.run(steps=short, batch=batch))
        second = seconds_of(lambda: self.run(steps=long, batch=batch))
        return (second - first) / (long - short)

    def _environment(self) -> dict[str, str]:
        """Offline, with the run's number of threads, and on the CPU."""
        threads = str(self.settings.threads)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept["FACEID_SCRIPT_TEMPLATE"] = self.settings.script_template
        kept |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        return kept | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def folder_with(photo: Path, image) -> Path:
    """A folder that holds one picture, uint8 [h, w, 3], as PNG."""
    from faceid_core.photos import encode_png

    photo.mkdir(parents=True, exist_ok=True)
    (photo / "photo.png").write_bytes(encode_png(image))
    return photo
