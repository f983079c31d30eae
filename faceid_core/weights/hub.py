"""Models from the Hugging Face hub, at a pinned revision; the hub's client resumes and this module checks."""

from __future__ import annotations

import json
import os
from pathlib import Path

from faceid_core.errors import ConfigurationError

from .catalog import KnownModel
from .transports import Brought, FetchFailed

# Beside the files: which revision they are, and the digests that the hub states. Hidden, so no lock names it.
_NOTE = ".hub.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Never read: the checker of Stable Diffusion's pictures, weights before averaging, other frameworks.
_NEVER = (
    "safety_checker/*",
    "feature_extractor/*",
    "*non_ema*",
    "*.bin",
    "*.ckpt",
    "*.msgpack",
    "*.h5",
    "*.onnx*",
)


def hub_download(model: KnownModel, folder: Path, *, precision: str = "float32") -> list[Brought]:
    """Bring the files of a model that are read here.

    Args:
        model: with `hub`, and `revision` unless the newest is to be pinned.
        precision: float16 takes the fp16 variant of a pipeline.

    Raises:
        FetchFailed: the hub cannot be reached, or broke off; what came is kept.
        ConfigurationError: no such repository, revision, or it is gated.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    folder.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi(endpoint=endpoint).model_info(model.hub, revision=model.revision, files_metadata=True)
        patterns = (
            [file.name for file in model.files] + [*_TOKENIZER] if model.files else _of_pipeline(precision)
        )
        never = list(_NEVER) if precision == "float16" else [*_NEVER, "*fp16*"]
        snapshot_download(
            model.hub,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=patterns,
            ignore_patterns=never,
            endpoint=endpoint,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise ConfigurationError(
            f"{model.hub} at {model.revision or 'its newest revision'} cannot be had from {endpoint}: "
            f"{type(error).__name__}; check the name, accept its license there, or log in with: hf auth login"
        ) from error
    except Exception as error:  # the client lets its HTTP library's own errors through
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FetchFailed(
            f"{model.hub} cannot be read from {endpoint}: {said}; try again, it goes on"
        ) from error
    digests = {each.rfilename: each.lfs.sha256 for each in info.siblings if each.lfs is not None}
    note = {
        "revision": info.sha,
        "sha256": {name: sha for name, sha in digests.items() if (folder / name).is_file()},
    }
    (folder / _NOTE).write_text(json.dumps(note, sort_keys=True))
    return []


def _of_pipeline(precision: str) -> list[str]:
    """The files of a Stable Diffusion pipeline that are read."""
    middle = ".fp16" if precision == "float16" else ""
    stems = ("model", "diffusion_pytorch_model")
    weights = [f"*/{stem}{middle}{end}" for stem in stems for end in (".safetensors", "-*.safetensors")]
    return ["model_index.json", "*/*.json", "*/*.txt", *weights]


def hub_digests(folder: Path) -> dict[str, str]:
    """File -> SHA-256 as the hub states it, for the large files of a folder that came from there."""
    note = folder / _NOTE
    return json.loads(note.read_text())["sha256"] if note.exists() else {}
