"""One exception family per cause: configuration, input, missing weights, store, damaged data."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

# Of a list of problems a person reads the first; a message with a million of them stops terminals and logs.
MOST_LISTED = 20
_LONGEST_TOLD = 1_000
_LINKS_TOLD = 5


def listed(problems: Sequence[str], *, count: int | None = None) -> str:
    """The first problems, a line each, and how many more there are.

    Args:
        problems: all of them, or the first.
        count: how many there are, where `problems` are not all.
    """
    lines = [
        f"  - {text if len(text) <= _LONGEST_TOLD else text[: _LONGEST_TOLD - 3] + '...'}"
        for text in problems[:MOST_LISTED]
    ]
    more = (len(problems) if count is None else count) - len(lines)
    return "\n".join([*lines, f"  - and {more} more"] if more else lines)


class FaceidError(Exception):
    """Base of every error that faceid raises on purpose; its text says what to do next."""


class ConfigurationError(FaceidError):
    """The configuration cannot be run as it stands (exit status 3)."""


class ServerAway(ConfigurationError):
    """The Prefect server does not answer, or has ended: the same command may go on once it is back."""


class AlreadyRun(FaceidError):
    """The run of the date that is asked for is complete; the text names it. That is no failure."""


class InputContractError(ConfigurationError):
    """The identity manifest breaks its contract; `problems` holds one line for each row at fault, the text the first."""

    def __init__(self, source: str, problems: list[str]):
        self.source, self.problems = source, list(problems)
        super().__init__(f"{source} has {len(self.problems)} problem(s):\n{listed(self.problems)}")


class NamesPeople(ConfigurationError):
    """An error whose text names people or their photos; `without_people` is the text for logs, Prefect and messages."""

    def __init__(self, text: str, *, without_people: str):
        self.without_people = without_people
        super().__init__(text)


class PhotosMissing(NamesPeople):
    """No photo of the manifest is where it says; the text names the first address."""

    def __init__(self, text: str, *, first: str):
        super().__init__(f"{text} Looked for: {first}", without_people=text)


def without_people(error: Exception) -> str:
    """An error's text for logs and Prefect: a manifest's problems name people, so only their number is given."""
    if isinstance(error, InputContractError):
        return f"the manifest has {len(error.problems)} problem(s); `faceid run --dry-run` on the machine lists them"
    return error.without_people if isinstance(error, NamesPeople) else str(error)


class PhotoRejected(FaceidError):
    """A photo cannot be used. `reason` is a stable slug; `sentence` tells its supplier what to change.

    `looked_for` is the address at which nothing was found. It may be an id: it is for screens of the machine that has the
    manifest, never for logs, tables or Prefect, and no part of the text.
    """

    def __init__(
        self,
        reason: str,
        sentence: str,
        *,
        value: float | None = None,
        threshold: float | None = None,
        looked_for: str | None = None,
    ):
        self.reason, self.sentence, self.value, self.threshold = reason, sentence, value, threshold
        self.looked_for = looked_for
        super().__init__(f"{reason}: {sentence}")


class MissingWeights(FaceidError):
    """A model's files are absent; the text names the file, the folder and the command that brings it."""


class UnusableWeights(MissingWeights):
    """A model's files are there, and what they hold cannot be computed with; the text names the part."""


class StoreError(FaceidError):
    """The object store refused or failed an operation."""


class LinkInStore(StoreError):
    """A name in a folder store is a symbolic link or lies behind one; `links` holds the links' names."""

    def __init__(self, links: Sequence[str], root: str, *, wanted: str = ""):
        """Say what to do about links below a store's root.

        Args:
            links: their names.
            root: the store's folder.
            wanted: what was to be done, for the beginning of the message.
        """
        self.links = tuple(links)
        first = ", ".join(f"{root}/{link}" for link in self.links[:_LINKS_TOLD])
        more = f" and {len(links) - _LINKS_TOLD} more" if len(links) > _LINKS_TOLD else ""
        what = "is a symbolic link" if len(links) == 1 else "are symbolic links"
        super().__init__(
            f"{wanted}{': ' if wanted else ''}{first}{more} {what}. Links below a store's root are not followed: what "
            "lies behind them is neither read nor erased. Put the real folder or file in the link's place, or erase "
            "what is behind it and remove the link; then try again. The root itself may be a link"
        )


class StoreRefused(StoreError):
    """The store refuses us as things are set: credentials, rights, region, endpoint, clock. Trying again is no use.

    At the opening of a run or command this is a `ConfigurationError` (`as_configuration`); later it is a store's trouble.
    """

    def __init__(self, message: str, advice: str = ""):
        self.advice = advice
        super().__init__(message)


@contextmanager
def as_configuration() -> Generator[None]:
    """Before any work is done, a store that refuses us is a matter of configuration."""
    try:
        yield
    except StoreRefused as refusal:
        raise ConfigurationError(str(refusal)) from refusal


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
