"""Export of a person to a Textual Inversion file, with its progress and what the file loses."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.exported import MEASURED, DrawOptions, distill_tokens, measure
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.script import diffusers_script
from faceid_core.personalize.export import is_exact, to_textual_inversion
from faceid_core.personalize.prompts import require_placeholder_token
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.private import write_private
from faceid_core.run.latest_results import newest_crop
from faceid_core.run.preflight import require_room
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.weights.describe import describe
from faceid_core.weights.resolve import base_files, resolve_all
from flows.console import LINE_SECONDS


class StepProgress:
    """Shows how far each of several tasks is, one after another: a bar on a terminal, elsewhere a line now and then.

    It is a `ProgressCallback`. Standard output of the command drops what cannot be shown (`flows.display`).
    """

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._name, self._task, self._last_line = "", None, 0.0

    def __enter__(self) -> StepProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Show that so many steps of a task are done."""
        began = name != self._name
        if began or self._task is None:
            self._name, self._task = name, self._bars.add_task(name, total=total)
        self._bars.update(self._task, completed=done)
        if self._console.is_terminal or not (began or time.monotonic() - self._last_line > LINE_SECONDS):
            return
        self._last_line = time.monotonic()
        self._console.print(f"{name}: {done} of {total}", soft_wrap=True)


def write_textual_inversion(
    config: NightlyConfig,
    identity_id: str,
    native: bytes,
    *,
    token: str,
    steps: int,
    vectors: int | None,
    measured: bool,
    target: Path,
) -> None:
    """Write the file, and print how exact it is.

    Args:
        config: Names the base model, the grid and the metrics.
        identity_id: The person.
        native: The person's tokens file.
        token, steps, vectors: As in `to_textual_inversion` and `distill`.
        measured: Also draw the configured grid with the tokens, the file and the class word, and score it, after the
            file is written.
        target: The file to write.

    Raises:
        ConfigurationError: the token, the grid or a number cannot be used, or no configured metric can measure it;
            raised before anything is computed.
    """
    tokens = IdentityTokens.from_bytes(native)
    console = Console(highlight=False)
    if is_exact(tokens):
        rest = ", and there is nothing to measure" if measured else ""
        if vectors:
            rest += f" (the file has the {tokens.vectors} vectors that were learned, not the {vectors} asked for)"
        console.print(f"exact: the tokens have one stage with K = V, so nothing is lost{rest}")
        write_private(target, to_textual_inversion(tokens, token=token))
        return
    require_placeholder_token(token)
    grid, chosen, found = load_grid(config.generate.grid), config.generate, resolve_all(config)
    texts = {f"prompt {prompt.id!r}": prompt.text for prompt in grid.prompts}
    require_room(found, texts, max(tokens.vectors, vectors or 1))
    drawing = DrawOptions.from_config(chosen, found.base.resolution)
    found.base.latent_shape_of(drawing.size)
    metrics = tuple(metric for metric in MEASURED if metric in config.score.metrics)
    if measured and not metrics:
        raise ConfigurationError(
            f"--measure needs one of {', '.join(MEASURED)} in score.metrics, which has none of them; add one"
        )
    reference = newest_crop(config, identity_id) if measured else None
    models = Models(WorkerSettings.from_config(config, found.digests, threads=0))
    console.print("loading the base model")
    base = models.base
    with StepProgress(console) as progress:
        made = distill_tokens(base, tokens, grid, drawing, steps=steps, vectors=vectors, progress=progress)
    console.print(
        f"distilled: on held-out prompts and noise the file loses {made.lost:.1%} of the person's effect on the "
        f"network's predictions (the mean of the vectors {made.lost_by_mean:.1%}); {made.seconds:.0f} s",
        soft_wrap=True,
    )
    write_private(target, to_textual_inversion(made.tokens, token=token, notes=made.notes()))
    if reference is not None:
        subjects = {"native tokens": tokens, "exported file": made.tokens, "class word": tokens.class_word}
        with StepProgress(console) as progress:
            figures = measure(
                base,
                subjects,
                reference,
                tokens.class_word,
                grid,
                range(chosen.seeds),
                drawing,
                models.scorers,
                metrics,
                progress=progress,
            )
        table = Table("", *metrics)
        for name, found in figures.items():
            table.add_row(name, *(f"{found[metric]:.3f}" for metric in metrics))
        console.print(table)


def write_script(
    config: NightlyConfig,
    file: str,
    native: bytes,
    *,
    token: str,
    vectors: int | None,
    prompt: str,
    seed: int,
) -> str:
    """A plain diffusers script that draws the exported file as `faceid draw` would, with the configured settings.

    Args:
        config: Names the base model and the sampler's settings.
        file: Path of the exported file, which need not exist yet.
        native: The person's tokens file.
        token: The word for the person in prompts.
        vectors: Token positions that the person takes in the file; None for as many as the tokens take.
        prompt: A prompt with `V*` once.
        seed: The seed of the picture.

    Returns:
        The script's text.

    Raises:
        ConfigurationError: the prompt cannot be used, or the base model is a single file.
    """
    about, files = config.base_model, base_files(config)
    if files.checkpoint is not None:
        raise ConfigurationError(
            "a script for a single-file base model is not written; unpack it once with diffusers' from_single_file and "
            "save_pretrained, and give base_model.source that folder"
        )
    require_room(
        resolve_all(config),
        {"--script-prompt": prompt},
        vectors or IdentityTokens.from_bytes(native).vectors,
    )
    base = describe(files.folder, name=about.source, digest="", precision=about.precision)
    return diffusers_script(
        base,
        files.folder.absolute(),
        Path(file).absolute(),
        prompt,
        DrawOptions.from_config(config.generate, base.resolution),
        token=token,
        seed=seed,
    )
