"""The parts of the benchmark `gpu`: each yields rows for one model in one precision, within a budget of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import torch

from faceid_core.config.method import Method
from faceid_core.config.personalize import DEFAULT_PRESET
from faceid_core.config.presets import PRESETS, WITHOUT_NAMES
from faceid_core.config.sections import GenerateConfig
from faceid_core.evaluate.name_portraits import learn_name_prior
from faceid_core.miniature.samples import portrait
from faceid_core.personalize.conditioning import two_token_names
from faceid_core.personalize.known_names import PUBLIC_FIGURES
from faceid_core.personalize.trainer import measured_slots
from faceid_core.stages.name_prior import STEPS as PRIOR_STEPS

from .ceiling import best_product, step_operations, total
from .gpu_bench import GRID, GUIDANCE, PICTURES_BAR, SAMPLES, TRAINING_BAR, Bench, Peak
from .measuring import Budget, repeated, seconds_of, spread
from .models import diffusers_pipeline, load, method, somebody, training_photos
from .pictures import SEEDS, Published, draw_all, plain_words
from .published_loop import PublishedLoop
from .published_script import folder_with
from .results import Row
from .settings import FIRST_SEED
from .throughput import PRESET, WARM_STEPS, NotWhole, Timing, step_seconds

_ONE, _FOUR = "one picture a call", "one prompt a call, its four seeds"
_MANY_STEPS = 10_000  # training ends when its seconds are over, not by its steps


def their_drawing(bench: Bench, budget: Budget) -> Iterator[Row]:
    """Pictures a second of the pipeline: one a call, one prompt a call, several prompts a call."""
    theirs, plain = Published(bench.place, bench.size.sampler_steps, GUIDANCE), plain_words(bench.texts)
    cases: dict[str, tuple[int, Callable[[], None]]] = {
        _ONE: (SEEDS, lambda: theirs.one_by_one(plain[:1])),
        _FOUR: (SEEDS, lambda: theirs.together(plain[:1], SEEDS)),
    }
    for size in bench.batches:
        if size > SEEDS:
            cases[f"batch {size}"] = size, lambda size=size: theirs.together(plain[: size // SEEDS], size)
    for name, (count, work) in cases.items():

        def warm(work: Callable[[], None] = work) -> None:
            theirs.steps = 1
            work()
            theirs.steps = bench.size.sampler_steps

        known = bench.their_pictures.values()
        row, _ = _pictures(bench, budget, f"pipeline, {name}", count, work, warm, known)
        if row.figure:
            bench.their_pictures[name] = row.figure.median
        yield row


def their_training(bench: Bench, budget: Budget) -> Iterator[Row]:
    """Samples a second of diffusers' Textual Inversion loop."""
    if bench.place.precision == "float16" and bench.model.kind != "sd15":
        why = "diffusers' XL script casts a text encoder that it trains to float16, whose gradients GradScaler refuses"
        yield bench.absent("diffusers' loop", why)
        return
    pipeline = diffusers_pipeline(bench.place)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    photo = folder_with(bench.settings.scratch / f"loop-photo-{side}", portrait(FIRST_SEED, pixels=side))
    loop = PublishedLoop(pipeline, bench.place, photo, side)
    for samples in (1, SAMPLES):
        case = f"diffusers' loop, batch {samples}"

        def step(samples: int = samples) -> None:
            loop.step(samples)

        seconds_of(step)
        if (expected := seconds_of(step)) > budget.left:
            yield bench.too_long(case, expected, budget)
            continue
        with bench.memory() as peak:
            seconds = repeated(step, min(bench.size.seconds, budget.left))
        rates = [samples / each for each in seconds]
        bench.loop[samples] = spread(rates).median
        yield bench.row(case, "samples/s", rates, f"{samples * len(rates)} samples measured", peak.note)
        if samples == SAMPLES:
            yield peak.row(bench, f"{case}: peak memory")


def loading(bench: Bench, _budget: Budget) -> Iterable[Row]:
    """Load our base model, for which diffusers' is gone."""
    bench.free()
    bench.base = load(bench.place, bench.settings)
    return ()


def our_training(bench: Bench, budget: Budget) -> Iterator[Row]:
    """Samples a second by samples a step and people together, and the gain over the loop."""
    photos = training_photos(bench.loaded, max(people for _, people in bench.size.ladder))
    opening, sample = 0.0, 0.0  # seconds that opening a slot and a sample took last
    too_many: dict[int, int] = {}  # samples a step -> people whom the memory does not hold
    for samples, people in bench.size.ladder:
        case = f"training, m={samples}, B={people}"
        expected = opening * people + (WARM_STEPS + 1) * sample * samples * people
        if expected > budget.left:
            yield bench.too_long(case, expected, budget)
            continue
        if people >= too_many.get(samples, people + 1):
            yield bench.absent(case, f"the memory does not hold {too_many[samples]} people")
            continue
        try:
            with bench.memory() as peak:
                timing = _timed(bench, _plain(bench, samples, _MANY_STEPS), photos[:people], budget)
        except (NotWhole, torch.OutOfMemoryError) as error:
            too_many[samples] = people
            yield bench.absent(case, str(error).splitlines()[0])
            continue
        together = samples * people
        opening, sample = timing.set_up, timing.step / together
        bench.ours[samples, people] = together / timing.step
        measured = f"{together * timing.steps} samples measured"
        yield bench.row(case, "samples/s", [together / timing.step], measured, peak.note)
    yield from _training_gains(bench)


def _training_gains(bench: Bench) -> Iterator[Row]:
    for samples, theirs in bench.loop.items():
        ours = {people: rate for (m, people), rate in bench.ours.items() if m == samples}
        if ours:
            best = max(ours, key=ours.__getitem__)
            bar = ("at least", TRAINING_BAR) if bench.model.has_bars and samples == 1 else None
            case = f"gain over diffusers' loop at m={samples}, best B={best}"
            yield bench.row(case, "x", [ours[best] / theirs], bar=bar)


def shipped(bench: Bench, budget: Budget) -> Iterator[Row]:
    """A person's seconds and people an hour: the default preset, and plain Textual Inversion beside the loop."""
    # Of a preset with a name prior the form without: no names ship for Stable Diffusion.
    default = WITHOUT_NAMES.get(DEFAULT_PRESET, DEFAULT_PRESET)
    methods = {default: method(default), PRESET: _plain(bench, SAMPLES, bench.model.steps)}
    for name, learned in methods.items():
        case = f"{name}, {learned.steps} steps of {learned.samples_per_step}"
        slots, at_once = _fitting(bench, learned)
        bounded = f"with samples_at_once: {at_once}" if at_once else ""
        yield bench.row(f"{case}: slots that fit", "people", [slots], bounded)
        people = min(slots, bench.size.slots)
        photos = training_photos(bench.loaded, people)
        brief = learned.model_copy(update={"steps": WARM_STEPS + 1, "warmup_steps": 0})
        once = step_seconds(bench.loaded, photos[:1], brief, samples_at_once=at_once)
        expected = (once.set_up + (WARM_STEPS + 1) * once.step) * people
        if expected > budget.left:
            yield bench.too_long(f"{case}: a person's training", expected, budget)
            continue
        with bench.memory() as peak:
            timing = _timed(bench, learned, photos, budget, samples_at_once=at_once)
        assert once.closing is not None, "it went through to its last step"
        seconds = learned.steps * timing.step / people + once.set_up + once.closing
        measured = f"{learned.samples_per_step * people * timing.steps} samples measured"
        yield bench.row(f"{case}, {people} together: a person's training", "s", [seconds], measured)
        yield bench.row(f"{case}, {people} together: training", "people/h", [3600 / seconds])
        yield peak.row(bench, f"{case}, {people} together: peak memory of training")
        if name == PRESET and SAMPLES in bench.loop:
            theirs = learned.steps * SAMPLES / bench.loop[SAMPLES]
            case = f"diffusers' loop, {learned.steps} steps of {SAMPLES}"
            yield bench.row(f"{case}: training", "people/h", [3600 / theirs])
            yield bench.row("people an hour over diffusers' loop", "x", [theirs / seconds])


def our_drawing(bench: Bench, budget: Budget) -> Iterator[Row]:
    """Pictures a second by batch, the gain over the pipeline, and a person's whole grid."""
    base, steps = bench.loaded, bench.size.sampler_steps
    tokens, found, peaks = somebody(base), dict[int, float](), dict[int, Peak]()
    for size in bench.batches:

        def work(steps: int = steps, size: int = size) -> None:
            draw_all(base, tokens, bench.texts[: size // SEEDS], size, steps, GUIDANCE)

        known = found.values() or bench.their_pictures.values()
        row, peaks[size] = _pictures(
            bench, budget, f"draw {size}", size, work, lambda work=work: work(steps=1), known
        )
        if row.figure:
            found[size] = row.figure.median
        yield row
    if not found:
        return
    best = max(found, key=found.__getitem__)
    yield peaks[best].row(bench, f"draw {best}: peak memory")
    for name, theirs in bench.their_pictures.items():
        bar = ("at least", PICTURES_BAR if name in (_ONE, _FOUR) else 1.0) if bench.model.has_bars else None
        yield bench.row(f"gain of draw {best} over pipeline, {name}", "x", [found[best] / theirs], bar=bar)
    count = len(bench.texts) * GenerateConfig().seeds
    yield bench.row(f"a person's {count} pictures (grid {GRID})", "s", [count / found[best]])


def portraits(bench: Bench, budget: Budget) -> Iterator[Row]:
    """Portraits a second of known names, drawn and encoded as for the name prior."""
    learned = next(each for each in PRESETS.values() if each.needs_prior)
    names = two_token_names(bench.loaded.towers.values(), PUBLIC_FIGURES)[: bench.size.names]
    began, done, ended = time.perf_counter(), 0, 0.0

    def progress(drawn: int, total: int) -> None:
        nonlocal done, ended
        if drawn > done:
            done, ended = drawn, time.perf_counter()
        # After half of them the portraits are of names still, and nothing has been fitted to them.
        if budget.left <= 0 or drawn >= total // 2:
            raise _Over

    with bench.memory() as peak, suppress(_Over):
        learn_name_prior(
            bench.loaded,
            names,
            template=learned.template,
            portraits=learned.prior_portraits,
            components=learned.basis_size,
            steps=PRIOR_STEPS,
            progress=progress,
        )
    case = "name prior: portraits"
    if not done:
        yield bench.absent(case, f"the first batch was not done in {time.perf_counter() - began:.0f} s")
        return
    measured = f"{done} of {len(names) * learned.prior_portraits} measured"
    yield bench.row(case, "portraits/s", [done / (ended - began)], measured, peak.note)


def ceiling(bench: Bench, _budget: Budget) -> Iterator[Row]:
    """The share of the matrix-product ceiling that training has at its best."""
    product = best_product(bench.place, bench.loaded.dtype)
    yield bench.row("ceiling: matrix products", "T/s", [product / 1e12])
    if bench.ours:
        samples, people = max(bench.ours, key=bench.ours.__getitem__)
        photos, learned = training_photos(bench.loaded, 1), _plain(bench, 1, steps=1)
        counted = total(step_operations(bench.loaded, photos, learned))
        share = counted * bench.ours[samples, people] / product
        case = f"training, m={samples}, B={people}: share of the ceiling"
        yield bench.row(case, "x", [share], f"{counted / 1e9:.1f} G operations a sample")


class _Over(Exception):
    """The seconds are over."""


def _plain(bench: Bench, samples: int, steps: int) -> Method:
    """Textual Inversion at the rate for Stable Diffusion: at the preset's own, vectors may grow until training ends."""
    return method(PRESET, learning_rate=bench.model.rate, steps=steps, samples_per_step=samples)


def _timed(
    bench: Bench, learned: Method, photos: list, budget: Budget, *, samples_at_once: int = 0
) -> Timing:
    bench.free()  # a case before it may have run out of memory
    most = max(0.0, min(bench.size.seconds, budget.left))
    return step_seconds(bench.loaded, photos, learned, samples_at_once=samples_at_once, most_seconds=most)


def _fitting(bench: Bench, learned: Method) -> tuple[int, int]:
    """People whom the memory holds, and the samples at once that it takes for that (0: all of a step)."""
    try:
        return measured_slots(bench.loaded, learned), 0
    except torch.OutOfMemoryError:
        bench.free()
    return measured_slots(bench.loaded, learned, 1), 1


def _pictures(
    bench: Bench,
    budget: Budget,
    case: str,
    count: int,
    work: Callable[[], None],
    warm: Callable[[], None],
    known: Iterable[float],
) -> tuple[Row, Peak]:
    """Pictures a second of a call for so many.

    Args:
        warm: the same call with few steps.
        known: pictures a second of smaller calls, by which one that would take too long is not begun.
    """
    expected = count / max(known, default=torch.inf)
    if expected > budget.left or budget.left <= 0:
        return bench.too_long(case, expected, budget), Peak()
    warm()
    with bench.memory() as peak:
        seconds = repeated(work, min(bench.size.seconds, budget.left))
    rates = [count / each for each in seconds]
    return bench.row(case, "pictures/s", rates, f"{count * len(rates)} pictures measured", peak.note), peak
