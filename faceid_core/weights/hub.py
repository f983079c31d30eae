"""Models of the Hugging Face hub: what their ids mean, and where they lie in its local cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from faceid_core.errors import ConfigurationError

from .catalog import BASE_REVISIONS, KnownFile, KnownModel

_HUB_ID = re.compile(r"([\w-][\w.-]*)/([\w-][\w.-]*)(?:@([\w-][\w.-]*))?", re.ASCII)


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub at a revision; None where the id names no revision."""

    owner: str
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubModel | None:
        """Read `hub:owner/name@revision`; the scheme and the revision may be left out. None if the text is no hub id."""
        found = _HUB_ID.fullmatch(text.removeprefix("hub:"))
        return found and cls(*found.groups())

    @property
    def repository(self) -> str:
        """As the hub calls it."""
        return f"{self.owner}/{self.name}"

    @property
    def folder(self) -> str:
        """The folder of this revision in a folder of weights, where `faceid models fetch` puts it."""
        return "--".join(part for part in (self.owner, self.name, self.revision) if part)

    def known(self, files: tuple[KnownFile, ...] = ()) -> KnownModel:
        """The model as it is fetched; without files, a whole pipeline."""
        return KnownModel(self.folder, files, hub=self.repository, revision=self.revision)

    def snapshot(self, patterns: list[str] | None = None) -> Path | None:
        """Its folder in the hub's local cache, or None; asks nothing of the network.

        Args:
            patterns: files that are needed; None for whatever the cache holds.
        """
        # huggingface_hub takes a third of a second to import, and most configurations need nothing of it.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(
                    self.repository, revision=self.revision, local_files_only=True, allow_patterns=patterns
                )
            )
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            return None


def base_revision(source: str) -> HubModel | None:
    """The hub revision that a base model's source names (`sdxl`, `hub:owner/name@revision`); None if it names none.

    Raises:
        ConfigurationError: a hub address without a revision, or of another form.
    """
    if source not in BASE_REVISIONS and not source.startswith("hub:"):
        return None
    found = HubModel.parse(BASE_REVISIONS.get(source, source))
    if found is None or found.revision is None:
        raise ConfigurationError(
            f"base model {source!r}: write hub:owner/name@revision, with the revision's commit so that it cannot "
            f"change, or one of {', '.join(BASE_REVISIONS)}"
        )
    return found
