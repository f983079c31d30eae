"""Export of a person to a Textual Inversion file, and what it prints about the loss."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.exported import MEASURED, DrawOptions, distil_tokens, measure
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.script import diffusers_script
from faceid_core.personalize.export import is_exact, to_textual_inversion
from faceid_core.personalize.token_word import require_token
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.plan.preflight import require_room
from faceid_core.private import write_private
from faceid_core.run.reading import newest_crop
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.weights.resolve import base_files, resolve_all
from flows.step_progress import StepProgress


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
    """Write the file; says on the console how exact it is.

    Args:
        native: the person's tokens file.
        token, steps, vectors: as in `to_textual_inversion` and `distil`.
        measured: also draw the configured grid with the tokens, the file and the class word, and score it; the file is
            written before.

    Raises:
        ConfigurationError: the token, the grid or a number cannot be used, or no configured metric can measure it; said
            before anything is computed.
    """
    tokens = IdentityTokens.from_bytes(native)
    console = Console(highlight=False)
    if is_exact(tokens):
        rest = ", and there is nothing to measure" if measured else ""
        console.print(f"exact: the tokens have one stage with K = V, so nothing is lost{rest}")
        write_private(target, to_textual_inversion(tokens, token=token))
        return
    require_token(token)
    grid, chosen, found = load_grid(config.generate.grid), config.generate, resolve_all(config)
    texts = {f"prompt {prompt.id!r}": prompt.text for prompt in grid.prompts}
    require_room(found, texts, max(tokens.vectors, vectors or 1))
    metrics = tuple(metric for metric in MEASURED if metric in config.score.metrics)
    if measured and not metrics:
        raise ConfigurationError(
            f"--measure asks those of score.metrics that are among {', '.join(MEASURED)}, and none is; name one"
        )
    reference = newest_crop(config, identity_id) if measured else None
    models = Models(WorkerSettings.from_config(config, found.digests, threads=0))
    drawing = DrawOptions(chosen.sampler, chosen.steps, chosen.guidance, chosen.batch)
    console.print("loading the base model")
    base = models.base
    with StepProgress(console) as progress:
        made = distil_tokens(base, tokens, grid, drawing, steps=steps, vectors=vectors, progress=progress)
    console.print(
        f"distilled: on held-out prompts and noise the file loses {made.lost:.1%} of the person's effect on the "
        f"network's predictions (the mean of the vectors {made.lost_by_mean:.1%}); {made.seconds:.0f} s",
        soft_wrap=True,
    )
    write_private(target, to_textual_inversion(made.tokens, token=token, notes=made.notes()))
    if measured:
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
        file: path of the exported file, which need not be there yet.
        native: the person's tokens file.
        vectors: token positions that the person takes in the file; None for as many as the tokens take.
        prompt: with `V*` once.

    Raises:
        ConfigurationError: the prompt cannot be used, or the base model is a single file.
    """
    from faceid_core.weights.describe import describe

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
    chosen = config.generate
    return diffusers_script(
        describe(files.folder, name=about.source, digest="", precision=about.precision),
        files.folder.absolute(),
        Path(file).absolute(),
        prompt,
        DrawOptions(chosen.sampler, chosen.steps, chosen.guidance, chosen.batch),
        token=token,
        seed=seed,
    )
