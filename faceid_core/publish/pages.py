"""The run's pages: one per person under the person's own prefix, an index that shows no face, and its address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from urllib.parse import quote, urlencode

from safetensors.numpy import load

from faceid_core import photos
from faceid_core.errors import ConfigurationError, DamagedInput, PhotoRejected, StoreError
from faceid_core.evaluate.shards import read_shard
from faceid_core.evaluate.summary import SubjectScores
from faceid_core.outcomes import WEAK, Outcome
from faceid_core.publish.scores import quarantine_damaged
from faceid_core.report.index_page import index_page
from faceid_core.report.person_page import person_page
from faceid_core.run.execute import put_photo
from faceid_core.run.records import INDEX, PAGES, read_pages, replace_object
from faceid_core.run.state import Run
from faceid_core.stages.files import read_json, read_png
from faceid_core.stages.planning.generate import SHARD
from faceid_core.stages.work import Subject
from faceid_core.store import IdentityErased, Manifest, StageCache, erased_people
from faceid_core.store.cache import refuse_erased
from faceid_core.store.folder import folder_of
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.store.layout import run_object
from faceid_core.store.open import is_s3
from faceid_core.tables import Tables

PAGE_VERSION = 6


def write_pages(run: Run, found: Sequence[tuple[Subject, SubjectScores]], summary: list[dict]) -> str:
    """Write the pages that are not there yet; return the name of the index.

    A person's page is named after everything on it, so a run in which nothing changed writes no page, and its index
    links to the old one.
    """
    names: dict[str, str] = {}
    known, erased, common = _pages_of_last_run(run), erased_people(run.store), _common(run)
    for subject, scores in found:
        if subject.kind != "person" or subject.name in erased:
            continue
        name = _page_name(subject, common)
        # `gc` may have removed a result as unused before it was computed again, and its page with it.
        cached = run.outcome_reports[subject.name].outcome == Outcome.CACHED
        if (cached and known.get(subject.name) == name) or _write_page(run, name, subject, scores, summary):
            names[subject.name] = name
    replace_object(run.store, run_object(run.run_id, PAGES), canonical_json(names))
    outcome_reports = [
        {k: v for k, v in asdict(a).items() if k != "identity_id"} | {"message": a.sentence}
        for a in run.outcome_reports.values()
    ]
    page = index_page(
        run=_run(run),
        outcome_reports=outcome_reports,
        summary=[{**row, "identity_id": None} for row in summary],
        person_urls={who: f"../../{name}" for who, name in names.items()},
        notes=[f"{name}: {message}" for name, message in run.failures_common.items()],
    )
    name = run_object(run.run_id, INDEX)
    replace_object(run.store, name, page)
    return name


def report_address(run: Run, index: str) -> str:
    """The address of a run's report for a browser.

    Args:
        run: Whose report it is; `run.report_url` of its configuration names the web server, if there is one.
        index: The report's name in the store.

    Returns:
        An address below `run.report_url`; else that of the file; else, on AWS, of the S3 console, which asks its
        visitor to sign in; else of the object.
    """
    base = run.config.run.report_url
    if base:
        return f"{base.rstrip('/')}/{quote(index)}"
    store = run.store
    if not is_s3(store):
        return (folder_of(store.url).absolute() / index).as_uri()
    if not store.on_aws:
        return f"{store.url.rstrip('/')}/{index}"
    name = urlencode({"prefix": store.address.start + index})
    return f"https://s3.console.aws.amazon.com/s3/object/{store.bucket}?{name}"


def _write_page(run: Run, name: str, subject: Subject, scores: SubjectScores, summary: list[dict]) -> bool:
    """Write a person's page unless it is there. Returns whether the index may link to it; no failure stops the run."""
    try:
        if run.store.head(name) is not None:
            return True
        page = _person(run, subject, scores, summary)
        refuse_erased(run.store, subject.name, "the page")
        run.store.put_if_absent(name, page)
        refuse_erased(run.store, subject.name, "the page", written=[name])
        return True
    except IdentityErased:
        return False
    except (StoreError, PhotoRejected) as error:
        if isinstance(error, DamagedInput):
            quarantine_damaged(StageCache(run.store, subject.scope), error)
        run.reporter.note(f"{subject.name}: no page in this run, run again: {error}")
        return False


def _pages_of_last_run(run: Run) -> dict[str, str]:
    """Identity key -> page, as recorded by the run that the catalog shows; empty where no record can be read."""
    try:
        return read_pages(run.store, Tables(run.store).catalog().run_id)
    except (ConfigurationError, StoreError):
        return {}


def _common(run: Run) -> dict[str, list[str]]:
    """The results of floor and ceiling, which are on every person's page."""
    return {
        s.name: sorted(_content(m) for m in s.manifests.values())
        for s in run.subjects.values()
        if s.kind != "person"
    }


def _page_name(subject: Subject, common: dict[str, list[str]]) -> str:
    results = {result: _content(manifest) for result, manifest in subject.manifests.items()}
    digest = sha256_hex(canonical_json({"version": PAGE_VERSION, "results": results, "common": common}))
    return f"{subject.scope}/reports/{digest[:32]}.html"


def _content(manifest: Manifest) -> str:
    """Digest of inputs and outputs: a stage key alone stays the same when other bytes are computed for it."""
    return sha256_hex(canonical_json(manifest.content))


def _run(run: Run) -> dict:
    config = run.config
    return {
        "run_id": run.run_id,
        "base_digest": run.plan.weights["base"],
        "run_date": run.run_date.isoformat(),
        "about": {
            "base model": config.base_model.source,
            "method": config.personalize.preset,
            "pictures": f"{len(run.plan.grid.prompts)} prompts x {config.generate.seeds} seeds",
            "sampler": f"{config.generate.sampler}, {config.generate.steps} steps, guidance "
            f"{config.generate.guidance_scale:g}",
            "seed": str(config.personalize.seed),
        },
    }


def _person(run: Run, subject: Subject, scores: SubjectScores, summary: list[dict]) -> bytes:
    cache = StageCache(run.store, subject.scope)

    def blob(result: str, output: str) -> bytes:
        return cache.read(subject.manifests[result], output)

    limits = run.config.faces
    photo = photos.decode(
        _photo(run, subject),
        max_bytes=limits.max_photo_bytes,
        max_pixels=limits.max_photo_pixels,
    )
    detection = read_json(blob("detect", "detection.json"))
    training = read_json(blob("personalize", "training.json"))
    maps = load(blob("personalize", "attention.safetensors"))
    outcome_report = run.outcome_reports[subject.name]
    return person_page(
        run=_run(run),
        person={
            "identity_key": subject.name,
            "class_word": subject.class_word,
            "outcome": str(outcome_report.outcome),
            "message": outcome_report.message or (WEAK if outcome_report.weak else ""),
            "weak": bool(outcome_report.weak),
        },
        photo=photo,
        crop=read_png(blob("detect", "crop.png")),
        mask=read_png(blob("mask", "mask.png")) / 255.0,
        face_box=tuple(detection["box"]),
        quality=detection["quality"],
        verdict=read_json(blob("mask", "verdict.json")),
        approximate=read_json(blob("parse", "parser.json"))["approximate"],
        attention_before=maps["before"],
        attention_after=maps["after"],
        outside_before=training["outside_before"],
        outside_after=training["outside_after"],
        curve=read_json(blob("personalize", "curve.json")),
        prompts=run.plan.grid.prompts,
        pictures=read_shard(blob("generate", SHARD)),
        scores=scores.scores,
        floor_scores=scores.floor,
        summary=summary,
        index_url=f"../../../runs/{run.run_id}/{INDEX}",
    )


def _photo(run: Run, subject: Subject) -> bytes:
    """The person's photo from the store, put there again if its copy is damaged."""
    source, cache = subject.photo(), StageCache(run.store, subject.scope)
    try:
        return cache.read_blob(source.digest, stage="photo", stage_key=source.digest)
    except DamagedInput:
        put_photo(run, subject)
        return cache.read_blob(source.digest, stage="photo", stage_key=source.digest)
