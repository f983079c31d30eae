"""Evaluation of tokens that are there already: nobody is taught, and whoever was never taught is said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import Account, Outcome
from faceid_core.stages import STAGES
from faceid_core.stages.work import Work

TEACHING_STAGES = STAGES[: STAGES.index("generate")]


def close_unlearned(stage: str, misses: Sequence[Work], accounts: Mapping[str, Account]) -> list[Work]:
    """Close the account of everybody who would have to be taught first.

    Args:
        stage: One of STAGES.
        misses: What the store does not hold of it.
        accounts: By identity key; floor and ceiling have none.

    Returns:
        What is computed all the same: pictures and scores, and whatever floor and ceiling lack.
    """
    if stage not in TEACHING_STAGES:
        return list(misses)
    for work in misses:
        if work.subject in accounts:
            message = (
                f"the store holds no tokens that this configuration learned ({stage} is missing); run the person "
                "with it first, or choose the settings of faces, base_model and personalize that were run"
            )
            accounts[work.subject].close(
                Outcome.NOT_REACHED, stage=stage, reason="no_tokens", message=message
            )
    return [work for work in misses if work.subject not in accounts]


def require_no_teaching(config: NightlyConfig) -> None:
    """Refuse a configuration that asks for teaching again.

    Raises:
        ConfigurationError: `run.force` would begin before the pictures.
    """
    if config.run.force and (config.run.from_stage is None or config.run.from_stage in TEACHING_STAGES):
        raise ConfigurationError(
            "run.force would teach people again, which an evaluation never does; "
            "set run.from_stage to generate or score, or leave run.force off"
        )
