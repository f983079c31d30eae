"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from faceid_core.errors import FaceidError


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Args:
        check: what was looked at.
        state: ok; warn: the run can run, but look; fail: it cannot.
        found: what was seen.
        advice: what to do about it; empty where nothing is to be done.
    """

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def guarded(check: str, examine: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; what it raises is a finding too, so that the other checks still run."""
    try:
        return list(examine())
    except FaceidError as error:
        return [Finding(check, "fail", str(error), "see the message")]
    except Exception as error:  # a library's own: the doctor must not fall ill itself
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return [Finding(check, "fail", said, "the check itself broke; the run would meet the same")]


def as_records(findings: Iterable[Finding]) -> list[dict]:
    """Plain records, for JSON."""
    return [asdict(each) for each in findings]
