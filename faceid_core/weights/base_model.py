"""Where a base model's files lie: a known name, a hub revision, a folder, a bucket, or a single checkpoint file.

Nothing is downloaded from the hub here: a run reads what was brought before. Buckets are one's own, so what lies
there is staged to this machine; the digest of all files that are used stands in every stage key, and every worker
holds its own files against it before it loads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faceid_core.errors import ConfigurationError, MissingWeights

from .describe import ENCODERS, MINIATURE, require_files, source_folder, weights_variant
from .hub import HubModel, base_revision
from .lock import digest_folder, entry_digest, file_entry
from .place import NOWHERE, WeightsPlace, stage

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
# Part of a pipeline -> stem of its weights file.
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


@dataclass(frozen=True)
class BaseFiles:
    """The files of a base model on this machine.

    Attributes:
        source: as the configuration names it.
        folder: in diffusers' layout; of a single-file model its configurations and tokenizers.
        checkpoint: the single file that holds the weights, or None where the folder holds them.
        whole: whether every file of the folder belongs to the model (a folder of one's own), or only those that are
            read (a hub snapshot, which may hold other variants).
    """

    source: str
    folder: Path
    checkpoint: Path | None = None
    whole: bool = True

    def digest(self) -> str:
        """One SHA-256 over the model's files; large ones are hashed once and noted.

        Raises:
            MissingWeights: a file is not there.
        """
        if self.whole and self.checkpoint is None:
            return digest_folder(self.folder)
        names = sorted(_used_files(self.folder, weights=self.checkpoint is None))
        entries = {name: file_entry(self.folder / name) for name in names}
        if self.checkpoint is not None:
            entries["checkpoint"] = file_entry(self.checkpoint)
        return entry_digest(entries)


def find_base(source: str | Path, *, layout: str = "", place: WeightsPlace = NOWHERE) -> BaseFiles:
    """Find a base model's files; a bucket's are copied to this machine first.

    Args:
        source: "miniature", a known name, `hub:owner/name@revision`, a folder in diffusers' layout, a single
            `.safetensors` file in the original layout, or an `s3://` address of either.
        layout: of a single file: a source whose configurations and tokenizers describe it.
        place: in which hub models were put as `<owner>--<name>--<revision>`, before Hugging Face's own cache; its S3
            settings reach a source in a bucket, too.

    Raises:
        MissingWeights: files are not there; the text says which, and how they come there.
        ConfigurationError: a source of no such form, or pickled weights.
    """
    text = str(source)
    hub = base_revision(text)
    if hub is not None:
        folder = _hub_folder(hub, text, place)
        require_files(folder, text)
        return BaseFiles(text, folder, whole=False)
    if text == MINIATURE:
        return BaseFiles(text, source_folder(MINIATURE))
    if text.endswith(_PICKLED):
        raise ConfigurationError(
            f"base model {text!r} is pickled, and nothing is unpickled here; convert it to .safetensors"
        )
    path = stage(text, place.s3) if text.startswith("s3://") else Path(text)
    if not text.endswith(".safetensors"):
        require_files(path, text)
        return BaseFiles(text, path)
    if not path.is_file():
        raise MissingWeights(f"base model {text!r}: there is no such file; correct base_model.source")
    if not layout or layout.endswith(".safetensors"):
        raise ConfigurationError(
            f"base model {text!r} is a single file, which has neither configurations nor tokenizers: set "
            "base_model.layout to a folder (or known name) of the same architecture in diffusers' layout"
        )
    return BaseFiles(text, find_base(layout, place=place).folder, checkpoint=path)


def _hub_folder(hub: HubModel, source: str, place: WeightsPlace) -> Path:
    """Where a hub revision lies on this machine; a bucket's is copied here."""
    looked, into = "", ""
    if place.is_bucket:
        address = place.address(hub.folder)
        try:
            return stage(address, place.s3)
        except MissingWeights:
            looked = f"at {address} nor "
    for folder in (each / hub.folder for each in place.folders):
        if folder.is_dir():
            return folder
        looked, into = f"in {folder}", f" --local-dir {folder}"
    if not into:
        if (found := hub.snapshot()) is not None:
            return found
        # It takes a third of a second to import.
        from huggingface_hub import constants

        looked += f"in Hugging Face's cache {constants.HF_HUB_CACHE}"
    raise MissingWeights(
        f"base model {source!r}: {hub.repository} at revision {hub.revision} is not {looked}, and a run downloads "
        "nothing; bring it with: faceid models fetch "
        f"(or: hf download {hub.repository} --revision {hub.revision}{into}), or give base_model.source a folder"
    )


def _used_files(folder: Path, *, weights: bool) -> Iterator[str]:
    """The names of the files that loading reads.

    Raises:
        MissingWeights: a part has no weights.
    """
    yield "model_index.json"
    parts = ["scheduler", "unet", "vae", *ENCODERS, *ENCODERS.values()]
    for part in parts:
        for file in sorted((folder / part).glob("*")):
            if file.suffix in (".json", ".txt") and not file.name.endswith(".index.json"):
                yield f"{part}/{file.name}"
    if not weights:
        return
    for part in (part for part in parts if part in ENCODERS or part in _STEMS):
        if not (folder / part / "config.json").is_file():
            continue
        stem = _STEMS.get(part, "model")
        variant = weights_variant(folder, part, stem)
        marked = f"{stem}.{variant}" if variant else stem
        for file in sorted((folder / part).glob(f"{marked}*safetensors*")):
            # A shard, or its index, or the one file; no other variant.
            if re.fullmatch(rf"{re.escape(marked)}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", file.name):
                yield f"{part}/{file.name}"
