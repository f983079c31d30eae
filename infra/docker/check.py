"""Checks an installed environment before it becomes an image: python check.py cpu|gpu FOLDER."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

SECRETS = re.compile(r"(SECRET|PASSWORD|TOKEN|AUTH_STRING|ACCESS_KEY)", re.IGNORECASE)
# The largest file of ours is a part of the miniature; a published model has hundreds of megabytes.
MOST_BYTES = 32 * 2**20
IMPORTS = (
    "faceid_core",
    "flows.cli",
    "tasks.pool",
    "torch",
    "diffusers",
    "dlib",
    "cv2",
    "deltalake",
    "opentelemetry.exporter.otlp.proto.http",
)
WEIGHTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".onnx", ".h5", ".dat"}


def problems(build: str, venv: Path, environment: dict[str, str]) -> list[str]:
    """What keeps an environment from becoming an image, one sentence each; empty if nothing does."""
    found = [
        f"the variable {name} would be baked into the image" for name in environment if SECRETS.search(name)
    ]
    for path in venv.rglob("*"):
        if path.name == "shape_predictor_68_face_landmarks.dat":
            found.append(f"{path}: trained on pictures for non-commercial use")
        elif path.suffix in WEIGHTS and path.is_file() and path.stat().st_size > MOST_BYTES:
            found.append(f"{path}: model weights of {path.stat().st_size >> 20} MiB")
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            found.append(f"import {name}: {type(error).__name__}: {error}")
    if torch := sys.modules.get("torch"):
        cuda = torch.version.cuda
        if bool(cuda) != (build == "gpu"):
            found.append(f"torch is built for CUDA {cuda}, which is not the build {build}")
    return found


if __name__ == "__main__":
    wrong = problems(sys.argv[1], Path(sys.argv[2]), dict(os.environ))
    sys.exit("\n".join(wrong) if wrong else 0)
