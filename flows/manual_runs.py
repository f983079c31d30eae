"""Flows that are started by hand: one person now, an evaluation of tokens in the store, a study."""

# No postponed annotations here: Prefect makes the form from them.

import tempfile
from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

from faceid_core.config import NightlyConfig, changed
from faceid_core.config.section import Section
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.run.identities import OnePerson
from faceid_core.studies.definitions import SELECTION_SCORERS, studies
from faceid_core.studies.run import run_study
from faceid_core.studies.tuned import read_tuned
from flows.form import FormConfig
from flows.nightly import open_and_run, run_with_prefect
from flows.stopping import watched
from tasks.run_log import RunLogReporter


class StudyRequest(Section):
    """A study of the method, and its size."""

    study: Literal[tuple(studies())] = Field(  # ty: ignore[invalid-type-form] - the studies have the names
        description="The question; docs/studies has one page for each."
    )
    people: int | None = Field(
        None, ge=2, le=64, description="How many held-out people. Empty: the study's own number."
    )
    seeds: int | None = Field(
        None, ge=1, le=64, description="Images per prompt. Empty: the study's own number."
    )
    grid: str = Field(
        "laboratory-half",
        min_length=1,
        description="Prompt grid: 'miniature', 'laboratory', 'laboratory-half' or a YAML file.",
    )
    variants: tuple[str, ...] = Field((), description="Labels of the variants to measure. Empty means all.")
    conditions: tuple[Literal["said", "unsaid"], ...] = Field(
        (), description="Framing said or unsaid in the training prompt. Empty means all that the study has."
    )
    tuned: str = Field(
        "",
        description="Table of the study tune, on the machine of the run: each preset's best settings in each condition. "
        "Empty: the presets' own.",
    )
    fresh: bool = Field(False, description="Discard the study's table and begin a new one.")
    out: str = Field(
        "work/studies",
        min_length=1,
        description="Folder of tables, pages and figures, on the machine of the run; for a work pool an absolute path, "
        "since the folder in which its worker starts a run is removed afterwards.",
    )


@flow(name="personalize-one", flow_run_name="personalize-one", persist_result=False)
def personalize_one(person: OnePerson, config: FormConfig) -> State:
    """Personalize one person now: photo in; tokens, pictures, scores and a page out."""
    return _run_one_person(person, config)


def _run_one_person(person: OnePerson, config: NightlyConfig) -> State:
    """Run one person, who need not be in a manifest; such a run is never the current one of its name."""
    identity = person.identity()
    settings = {
        "name": "personalize-one",
        "identities": "(one person)",
        "run.only": (),
        "gate.promote": "never",
    }
    return open_and_run(
        changed(config, settings, source="personalize-one"), identities_of=lambda _config: [identity]
    )


@flow(name="evaluate-only", flow_run_name="evaluate-only", persist_result=False)
def evaluate_only(config: FormConfig) -> State:
    """Draw and score people whose tokens the store holds, with another grid, other seeds or metrics; train no tokens."""
    return _evaluate(config)


def _evaluate(config: NightlyConfig) -> State:
    """Run without training, under a name of its own, so that it is compared with evaluations only."""
    return open_and_run(
        changed(config, {"name": "evaluate-only"}, source="evaluate-only"), evaluation_only=True
    )


@flow(name="study", flow_run_name="study-{request.study}", persist_result=False)
def study(request: StudyRequest, config: FormConfig) -> State:
    """Answer one question about the method: a run for each variant, on people no training saw; then a page."""
    return _run_study(request, config)


def _is_of_pool_worker(folder: Path) -> bool:
    """Whether a folder is one in which Prefect's process worker starts a run, and which it removes."""
    return folder.parent == Path(tempfile.gettempdir()).resolve() and folder.name.endswith("prefect")


def _run_study(request: StudyRequest, config: NightlyConfig) -> State:
    """Run a study; each variant that is not complete in the store is a sub-flow."""
    about, log = studies()[request.study], get_run_logger()
    if not Path(request.out).is_absolute() and _is_of_pool_worker(Path.cwd()):
        return Failed(
            message=f"out {request.out!r} would lie in {Path.cwd()}, which the work pool's worker removes after the run; "
            "give an absolute path"
        )
    settings = {"generate.grid": request.grid}
    if about.selects:
        settings["score.scorers"] = SELECTION_SCORERS[0]
    try:
        with watched():
            result = run_study(
                about,
                changed(config, settings, source="study"),
                people=request.people or about.people,
                seeds=request.seeds or about.seeds,
                names=request.variants,
                conditions=request.conditions,
                tuned=read_tuned(Path(request.tuned), studies()["tune"]) if request.tuned else {},
                out=Path(request.out),
                start_run=lambda variant: run_with_prefect(variant, RunLogReporter(log))[0],
                print_line=log.info,
                fresh=request.fresh,
            )
    except (ConfigurationError, MissingWeights) as error:
        return Failed(message=str(error))
    for page in (file for file in result.files if file.suffix == ".md"):
        create_markdown_artifact(
            page.read_text(encoding="utf-8"), key=f"study-{about.name}", description=about.question
        )
    message = f"{len(result.computed)} variants computed, {len(result.cached)} were in the store"
    if result.absent:
        return Failed(message=f"{message}; people without figures in {', '.join(result.absent)}")
    return Completed(message=message)
