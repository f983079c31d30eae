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
from faceid_core.night.reading import newest_crop
from faceid_core.personalize.export import is_exact, require_token, to_textual_inversion
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.private_files import write_private
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.weights import base_files, find_weights


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
        ConfigurationError: the token, the grid or a number cannot be used, or no configured metric can measure it.
    """
    tokens = IdentityTokens.from_bytes(native)
    console = Console(highlight=False)
    if is_exact(tokens):
        rest = ", and there is nothing to measure" if measured else ""
        console.print(f"exact: the tokens have one stage with K = V, so nothing is lost{rest}")
        write_private(target, to_textual_inversion(tokens, token=token))
        return
    require_token(token)
    metrics = tuple(metric for metric in MEASURED if metric in config.score.metrics)
    if measured and not metrics:
        raise ConfigurationError(
            f"--measure asks those of score.metrics that are among {', '.join(MEASURED)}, and none is; name one"
        )
    models = Models(WorkerSettings.from_config(config, find_weights(config).digests, threads=0))
    grid, chosen = load_grid(config.generate.grid), config.generate
    drawing = DrawOptions(chosen.sampler, chosen.steps, chosen.guidance, chosen.batch)
    made = distil_tokens(models.base, tokens, grid, drawing, steps=steps, vectors=vectors)
    console.print(
        f"distilled: on held-out prompts and noise the file loses {made.lost:.1%} of the person's effect on the "
        f"network's predictions (the mean of the vectors {made.lost_by_mean:.1%}); {made.seconds:.0f} s",
        soft_wrap=True,
    )
    write_private(target, to_textual_inversion(made.tokens, token=token, notes=made.notes()))
    if measured:
        subjects = {"native tokens": tokens, "exported file": made.tokens, "class word": tokens.class_word}
        figures = measure(
            models.base,
            subjects,
            newest_crop(config, identity_id),
            tokens.class_word,
            grid,
            range(chosen.seeds),
            drawing,
            models.scorers,
            metrics,
        )
        table = Table("", *metrics)
        for name, found in figures.items():
            table.add_row(name, *(f"{found[metric]:.3f}" for metric in metrics))
        console.print(table)


def write_script(config: NightlyConfig, file: str, *, token: str, prompt: str, seed: int) -> str:
    """A plain diffusers script that draws the exported file as `faceid draw` would, with the configured settings.

    Args:
        file: path of the exported file.
        prompt: with `V*` once.

    Raises:
        ConfigurationError: the prompt cannot be used, or the base model is a single file.
    """
    from faceid_core.diffusion.describe import describe

    about, files = config.base_model, base_files(config)
    if files.checkpoint is not None:
        raise ConfigurationError(
            "a script for a single-file base model is not written; unpack it once with diffusers' from_single_file and "
            "save_pretrained, and give base_model.source that folder"
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
