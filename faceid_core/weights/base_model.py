"""Where a base model's files lie: a known name, a hub revision, a folder, a bucket, or a single checkpoint file.

Nothing is downloaded from the hub here: a run reads what was brought before. Buckets are one's own, so what lies
there is staged to this machine; the digest of all files that are used stands in every stage key, and every worker
holds its own files against it before it loads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.weights.describe import ENCODERS, MINIATURE, require_files, source_folder, weights_variant
from faceid_core.weights.lock import digest_folder, file_entry

# Revisions as the hub has them since their publication.
KNOWN = {
    "sd14": "CompVis/stable-diffusion-v1-4@133a221b8aa7292a167afc5127cb63fb5005638b",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "sd21": "stabilityai/stable-diffusion-2-1@5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
    "sd21-base": "stabilityai/stable-diffusion-2-1-base@5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",
}
_HUB = re.compile(r"([\w.-]+)/([\w.-]+)@([\w.-]+)", re.ASCII)
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
# Part of a pipeline -> stem of its weights file.
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


@dataclass(frozen=True)
class HubModel:
    """A pinned revision of a hub repository."""

    owner: str
    name: str
    revision: str

    @property
    def repository(self) -> str:
        """As the hub calls it."""
        return f"{self.owner}/{self.name}"

    @property
    def folder(self) -> str:
        """The folder of this revision in a folder of weights, where `faceid models fetch` puts it."""
        return f"{self.owner}--{self.name}--{self.revision}"


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
        return sha256_hex(canonical_json(entries))


def hub_model(source: str) -> HubModel | None:
    """The hub revision that a source names (`sdxl`, `hub:owner/name@revision`); None if it names none.

    Raises:
        ConfigurationError: a hub address without a revision, or of another form.
    """
    if source not in KNOWN and not source.startswith("hub:"):
        return None
    found = _HUB.fullmatch(KNOWN.get(source, source.removeprefix("hub:")))
    if not found or any(part.startswith(".") for part in found.groups()):
        raise ConfigurationError(
            f"base model {source!r}: write hub:owner/name@revision, with the revision's commit so that it cannot "
            f"change, or one of {', '.join(KNOWN)}"
        )
    return HubModel(*found.groups())


def find_base(
    source: str | Path, *, layout: str = "", weights: str = "", s3: Mapping[str, object] | None = None
) -> BaseFiles:
    """Find a base model's files; a bucket's are brought to this machine first.

    Args:
        source: "miniature", a known name, `hub:owner/name@revision`, a folder in diffusers' layout, a single
            `.safetensors` file in the original layout, or an `s3://` address of either.
        layout: of a single file: a source whose configurations and tokenizers describe it.
        weights: folder or s3://bucket/prefix in which hub models were put as `<owner>--<name>--<revision>`; empty:
            Hugging Face's own cache.
        s3: as `config.s3` has it.

    Raises:
        MissingWeights: files are not there; the text says which, and how they come there.
        ConfigurationError: a source of no such form, or pickled weights.
    """
    text = str(source)
    hub = hub_model(text)
    if hub is not None:
        folder = _hub_folder(hub, text, weights, s3 or {})
        require_files(folder, text)
        return BaseFiles(text, folder, whole=False)
    if text == MINIATURE:
        return BaseFiles(text, source_folder(MINIATURE))
    if text.endswith(_PICKLED):
        raise ConfigurationError(
            f"base model {text!r} is pickled, and nothing is unpickled here; convert it to .safetensors"
        )
    if text.startswith("s3://"):
        from faceid_core.weights.staging import stage

        path = stage(text, s3 or {})
    else:
        path = Path(text)
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
    return BaseFiles(text, find_base(layout, weights=weights, s3=s3).folder, checkpoint=path)


def _hub_folder(hub: HubModel, source: str, weights: str, s3: Mapping[str, object]) -> Path:
    """Where a hub revision lies on this machine; a bucket's is brought here."""
    into, looked = "", ""
    if weights.startswith("s3://"):
        from faceid_core.weights.staging import stage

        address = f"{weights.rstrip('/')}/{hub.folder}"
        try:
            return stage(address, s3)
        except MissingWeights:
            looked = f"at {address} nor "
    elif weights:
        folder = Path(weights) / hub.folder
        if folder.is_dir():
            return folder
        looked, into = f"in {folder}", f" --local-dir {folder}"
    if not into:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(hub.repository, revision=hub.revision, local_files_only=True))
        except LocalEntryNotFoundError:
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
