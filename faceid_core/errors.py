"""One exception family per cause: configuration, input, missing weights, store, damaged data."""

from __future__ import annotations


class FaceidError(Exception):
    """Base of every error that faceid raises on purpose; its text says what to do next."""


class ConfigurationError(FaceidError):
    """The configuration cannot be run as it stands (exit status 3)."""


class InputContractError(ConfigurationError):
    """The identity manifest breaks its contract; `problems` holds one line for each row at fault."""

    def __init__(self, source: str, problems: list[str]):
        self.source, self.problems = source, list(problems)
        listed = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source} has {len(self.problems)} problem(s):\n{listed}")


class PhotoRejected(FaceidError):
    """A photo cannot be used. `reason` is a stable slug; `sentence` tells its supplier what to change."""

    def __init__(
        self, reason: str, sentence: str, *, value: float | None = None, threshold: float | None = None
    ):
        self.reason, self.sentence, self.value, self.threshold = reason, sentence, value, threshold
        super().__init__(f"{reason}: {sentence}")


class MissingWeights(FaceidError):
    """A model's files are absent; the text names the file, the folder and the command that brings it."""


class StoreError(FaceidError):
    """The object store refused or failed an operation."""


class ObjectMissing(StoreError):
    """No object has that name."""


class DamagedRecord(StoreError):
    """A record of the store is not what its name says: cut off, edited by hand, or forged."""

    def __init__(self, name: str, url: str, detail: str, advice: str):
        self.name, self.detail = name, detail
        super().__init__(f"{name} in {url} cannot be understood ({detail}); {advice}")


class Conflict(StoreError):
    """A conditional replace lost: the object changed since it was read."""


class SecretMismatch(ConfigurationError):
    """The identity secret is not the one that this store was made with."""


class DamagedInput(StoreError):
    """A blob that a manifest names is absent or does not match its digest."""

    def __init__(self, stage: str, stage_key: str, detail: str):
        self.stage, self.stage_key, self.detail = stage, stage_key, detail
        super().__init__(f"stage {stage} ({stage_key[:12]}): {detail}; its producer has to run again")


class OutputMissing(DamagedInput, KeyError):
    """A manifest names no such output; where its stage makes one, the manifest is not what the stage wrote."""

    __str__ = Exception.__str__  # KeyError's own puts quotes around the sentence


class BaseMismatch(FaceidError):
    """Tokens were learned on another base model than the one that is to use them."""
