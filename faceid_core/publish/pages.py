"""The run's pages: one per person under the person's own prefix, an index that shows no face, and its address."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from urllib.parse import quote, urlencode

from safetensors.numpy import load

from faceid_core import __version__, photos
from faceid_core.errors import ConfigurationError, DamagedInput, PhotoRejected, StoreError
from faceid_core.evaluate.calibration import Calibration, calibration_of
from faceid_core.evaluate.shards import ShardRow, read_shard
from faceid_core.evaluate.summary import SubjectScores
from faceid_core.outcomes import WEAK, Outcome
from faceid_core.publish.promotion import COMPARISON, Verdict
from faceid_core.publish.scores import FINISHED, quarantine_damaged
from faceid_core.report.gallery_page import gallery_page, strip
from faceid_core.report.index_page import MOST_PEOPLE, index_page
from faceid_core.report.likeness import likeness_of
from faceid_core.report.overlays import Embedded, embedded
from faceid_core.report.person_page import person_page
from faceid_core.report.synthetic_mark import SyntheticMark
from faceid_core.run.execute import put_photo
from faceid_core.run.records import (
    INDEX,
    PAGES,
    config_digest,
    read_pages,
    read_status,
    replace_object,
)
from faceid_core.run.state import Run
from faceid_core.stages.files import read_json, read_png
from faceid_core.stages.planning.generate import SHARD
from faceid_core.stages.work import Subject
from faceid_core.store import IdentityErased, Manifest, StageCache, erased_people
from faceid_core.store.cache import refuse_erased
from faceid_core.store.folder import folder_of
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.store.layout import COMMON, run_object
from faceid_core.store.open import is_s3
from faceid_core.tables import Tables
from faceid_core.version import source_revision
from faceid_core.weights.required import BASE

PAGE_VERSION = 7
GALLERY = "gallery.html"
_BESIDE_PIXELS = 112


def write_pages(
    run: Run, found: Sequence[tuple[Subject, SubjectScores]], summary: list[dict], last_run_id: str | None
) -> str:
    """Write the pages that are not there yet; return the name of the index.

    A person's page is named after everything on it, so a run in which nothing changed writes no page, and its index
    links to the old one.

    Args:
        run: The run.
        found: Subjects with their scores.
        summary: The rows of `identity_summary`.
        last_run_id: The last complete run of the same name, whose pictures stand beside; None if there is none.
    """
    names: dict[str, str] = {}
    known, erased, common = _known_pages(run, last_run_id), erased_people(run.store), _common(run)
    beside, rows_of = _Beside(run, last_run_id), rows_by_person(summary)
    for subject, scores in found:
        if subject.kind != "person" or subject.name in erased:
            continue
        name = _page_name(subject, common)
        # `gc` may have removed a result as unused before it was computed again, and its page with it.
        cached = run.outcome_reports[subject.name].outcome == Outcome.CACHED
        own = rows_of[subject.name]
        if (cached and name in known) or _write_page(run, name, subject, scores, own, beside):
            names[subject.name] = name
    replace_object(run.store, run_object(run.run_id, PAGES), canonical_json(names))
    _write_gallery(run, names)
    return write_index(run, found, summary)


def rows_by_person(summary: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Identity key -> what of a run's summary is on the person's page: the own row, and those of floor and ceiling."""
    common = [row for row in summary if row["subject_kind"] != "person"]
    return {row["identity_key"]: [row, *common] for row in summary if row["subject_kind"] == "person"}


def write_index(
    run: Run,
    found: Sequence[tuple[Subject, SubjectScores]],
    summary: Sequence[Mapping],
    verdict: Verdict | None = None,
) -> str:
    """Write a run's index, whose pages of people are written and recorded; return the index's name.

    Args:
        run: The run.
        found: Subjects with their scores.
        summary: The rows of `identity_summary`.
        verdict: How the run compares with earlier ones, once its rows are published.
    """
    verdict, reports = verdict or Verdict(), run.outcome_reports
    names = {
        who: name
        for who, name in read_pages(run.store, run.run_id).items()
        if reports[who].outcome in FINISHED
    }
    compared, calibration = verdict.against_last, _calibration(run)
    page = index_page(
        run=_run(run),
        outcome_reports=[
            {k: v for k, v in vars(a).items() if k != "identity_id"} | {"message": a.sentence}
            for a in reports.values()
        ],
        summary=[{**row, "identity_id": None} for row in summary],
        person_urls={who: f"../../{name}" for who, name in names.items()},
        changes=[asdict(each) for each in verdict.changes],
        compared_with=compared.first if compared else "",
        comparison_url=COMPARISON if verdict.page else "",
        gallery_url=GALLERY if names else "",
        sentence=verdict.sentence,
        likeness={
            subject.name: likeness_of(scores.scores, scores.floor, calibration)
            for subject, scores in found
            if subject.kind == "person"
        },
        calibration=calibration,
        notes=[f"{name}: {message}" for name, message in run.failures_common.items()],
    )
    name = run_object(run.run_id, INDEX)
    replace_object(run.store, name, page)
    return name


def _write_gallery(run: Run, names: Mapping[str, str]) -> None:
    """Write a run's gallery; `names` are those of people's pages, by identity key."""
    reports = run.outcome_reports
    finished = [who for who in names if reports[who].outcome in FINISHED]
    shown = sorted(finished, key=lambda each: not reports[each].weak)[:MOST_PEOPLE]
    if not shown:
        return
    page = gallery_page(
        run_id=run.run_id,
        prompts=[prompt.text for prompt in run.plan.grid.prompts],
        people=[
            {
                "identity_key": who,
                "weak": bool(reports[who].weak),
                "url": f"../../{names[who]}",
                "strip": f"../../{_strip_name(names[who])}",
            }
            for who in shown
        ],
        left_out=len(finished) - len(shown),
        seed=0,
        index_url=INDEX,
    )
    replace_object(run.store, run_object(run.run_id, GALLERY), page)


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


class _Beside:
    """Pictures that stand beside a person's on the page, read when the first page needs them."""

    def __init__(self, run: Run, last_run_id: str | None):
        self._run, self._last_run = run, last_run_id
        self._of_words: dict[str, dict[tuple[str, int], Embedded]] = {}

    def of(self, subject: Subject) -> list[tuple[str, dict[tuple[str, int], Embedded]]]:
        """The class word's pictures, and the person's in the last complete run if others; by prompt and seed."""
        word, found = subject.class_word, []
        if word not in self._of_words:
            manifest = self._run.plan.floors.get(word)
            self._of_words[word] = {} if manifest is None else self._pictures(COMMON, manifest)
        if self._of_words[word]:
            found.append((f"class word “{word}”", self._of_words[word]))
        key = self._last_keys.get(subject.name)
        if key is not None and key != subject.manifests["generate"].stage_key:
            cache = StageCache(self._run.store, subject.scope)
            try:
                manifest = cache.read_manifest("generate", key, read_only=True)
            except StoreError:
                manifest = None
            if manifest is not None:
                found.append((f"run {self._last_run}", self._pictures(subject.scope, manifest)))
        return found

    def _pictures(self, scope: str, manifest: Manifest) -> dict[tuple[str, int], Embedded]:
        """Empty where they cannot be read: a page is worth more than what stands beside its pictures."""
        try:
            rows = read_shard(StageCache(self._run.store, scope).read(manifest, SHARD))
        except (StoreError, ValueError):  # a shard of an earlier format, too
            return {}
        mark = SyntheticMark(manifest.content["preimage"]["weights"][BASE])
        return {
            (row.prompt, row.seed): embedded(row.image, most_pixels=_BESIDE_PIXELS, mark=mark) for row in rows
        }

    @cached_property
    def _last_keys(self) -> dict[str, str]:
        """Identity key -> stage key of the pictures in the last complete run of the name."""
        if self._last_run is None:
            return {}
        try:
            people = read_status(self._run.store, self._last_run)["people"]
        except (ConfigurationError, StoreError):
            return {}
        return {
            row["identity_key"]: row["stage_keys"]["generate"]
            for row in people
            if "generate" in row["stage_keys"]
        }


def _strip_name(page: str) -> str:
    """The person's pictures for the gallery, beside the page."""
    return f"{page.removesuffix('.html')}.jpg"


def _write_page(
    run: Run, name: str, subject: Subject, scores: SubjectScores, summary: Sequence[Mapping], beside: _Beside
) -> bool:
    """Write a person's page unless it is there. Returns whether the index may link to it; no failure stops the run."""
    try:
        if run.store.head(name) is not None:
            return True
        pictures = read_shard(StageCache(run.store, subject.scope).read(subject.manifests["generate"], SHARD))
        page = _person(run, subject, scores, summary, pictures, beside)
        first = {row.prompt_id: row for row in reversed(pictures)}
        mark = SyntheticMark(run.plan.weights[BASE], run.run_id)
        images = strip([first[prompt.id].image for prompt in run.plan.grid.prompts], mark)
        refuse_erased(run.store, subject.name, "the page")
        # The page last: where it is, its strip is.
        run.store.put_if_absent(_strip_name(name), images)
        run.store.put_if_absent(name, page)
        refuse_erased(run.store, subject.name, "the page", written=[_strip_name(name), name])
        return True
    except IdentityErased:
        return False
    except (StoreError, PhotoRejected) as error:
        if isinstance(error, DamagedInput):
            quarantine_damaged(StageCache(run.store, subject.scope), error)
        run.reporter.note(f"{subject.name}: no page in this run, run again: {error}")
        return False


def _known_pages(run: Run, last_run_id: str | None) -> set[str]:
    """Pages as recorded by the run that the catalog shows, and by the last of the same name: those that can be read.

    Several manifests on one store take turns in the catalog.
    """
    runs = {last_run_id} if last_run_id else set()
    with suppress(ConfigurationError, StoreError):
        runs.add(Tables(run.store).catalog().run_id)
    known: set[str] = set()
    for run_id in runs:
        with suppress(ConfigurationError, StoreError):
            known.update(read_pages(run.store, run_id).values())
    return known


def _common(run: Run) -> dict[str, list[str]]:
    """What is on every person's page: the results of floor and ceiling, and the recognizer's calibration."""
    calibration = _calibration(run)
    return {
        s.name: sorted(_content(m) for m in s.manifests.values())
        for s in run.subjects.values()
        if s.kind != "person"
    } | {"": [] if calibration is None else [sha256_hex(canonical_json(asdict(calibration)))]}


def _calibration(run: Run) -> Calibration | None:
    score = run.config.score
    return calibration_of(score.own_recognizers[0] if score.of_photographs else score.scorers)


def _page_name(subject: Subject, common: dict[str, list[str]]) -> str:
    results = {result: _content(manifest) for result, manifest in subject.manifests.items()}
    digest = sha256_hex(canonical_json({"version": PAGE_VERSION, "results": results, "common": common}))
    return f"{subject.scope}/reports/{digest[:32]}.html"


def _content(manifest: Manifest) -> str:
    """Digest of inputs and outputs: a stage key alone stays the same when other bytes are computed for it."""
    return sha256_hex(canonical_json(manifest.content))


def _run(run: Run) -> dict:
    config, side = run.config, run.plan.base.resolution
    height, width = config.generate.size(side) or (side, side)
    return {
        "run_id": run.run_id,
        "base_digest": run.plan.weights["base"],
        "run_date": run.run_date.isoformat(),
        "about": {
            "base model": config.base_model.source,
            "method": config.preset_in_use(),
            "pictures": f"{len(run.plan.grid.prompts)} prompts x {config.generate.seeds} seeds, "
            f"{width} x {height} pixels",
            "sampler": f"{config.generate.sampler}, {config.generate.steps} steps, guidance "
            f"{config.generate.guidance_scale:g}",
            "seed": str(config.personalize.seed),
        },
    }


def _person(
    run: Run,
    subject: Subject,
    scores: SubjectScores,
    summary: Sequence[Mapping],
    pictures: Sequence[ShardRow],
    beside: _Beside,
) -> bytes:
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
        pictures=pictures,
        scores=scores.scores,
        floor_scores=scores.floor,
        summary=summary,
        calibration=_calibration(run),
        index_url=f"../../../runs/{run.run_id}/{INDEX}",
        beside=beside.of(subject),
        reproduction=_reproduction(run, subject),
    )


def _reproduction(run: Run, subject: Subject) -> dict:
    """Versions, stage keys and commands by which the results of a person can be computed again."""
    prompt = run.plan.grid.prompts[0].text
    return {
        "facts": {
            "faceid": __version__,
            "code revision": source_revision() or "unknown",
            "configuration digest": config_digest(run)[:16],
            "base model": run.plan.weights["base"][:16],
        },
        "commands": [
            f"faceid query --config run.yaml "
            f"\"select distinct identity_id from people where identity_key = '{subject.name}'\"",
            f"faceid draw --identity ID --prompt {shlex.quote(prompt)} --config run.yaml",
            "faceid explain ID generate --config run.yaml",
            "faceid run --only ID --force --config run.yaml",
        ],
        "results": [
            {
                "stage": result,
                "version": manifest.content["preimage"]["version"],
                "key": manifest.stage_key,
                "finished_at": manifest.provenance.get("finished_at"),
            }
            for result, manifest in subject.manifests.items()
        ],
    }


def _photo(run: Run, subject: Subject) -> bytes:
    """The person's photo from the store, put there again if its copy is damaged."""
    source, cache = subject.photo(), StageCache(run.store, subject.scope)
    try:
        return cache.read_blob(source.digest, stage="photo", stage_key=source.digest)
    except DamagedInput:
        put_photo(run, subject)
        return cache.read_blob(source.digest, stage="photo", stage_key=source.digest)
