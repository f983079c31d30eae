"""Export of a person to a Textual Inversion file, and what it prints about the loss."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.evaluate.exported import MEASURED, DrawOptions, distil_tokens, measure
from faceid_core.evaluate.grid import load_grid
from faceid_core.night.reading import newest_crop
from faceid_core.personalize.export import is_exact, require_token, to_textual_inversion
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.weights import find_weights


def write_textual_inversion(
    config: NightlyConfig,
    identity_id: str,
    native: bytes,
    *,
    token: str,
    steps: int,
    vectors: int | None,
    measured: bool,
) -> bytes:
    """The file's bytes; says on the console how exact it is.

    Args:
        native: the person's tokens file.
        token, steps, vectors: as in `to_textual_inversion` and `distil`.
        measured: also draw the configured grid with the tokens, the file and the class word, and score it.

    Raises:
        ConfigurationError: the token, the grid or a number cannot be used.
    """
    tokens = IdentityTokens.from_bytes(native)
    console = Console(highlight=False)
    if is_exact(tokens):
        rest = ", and there is nothing to measure" if measured else ""
        console.print(f"exact: the tokens have one stage with K = V, so nothing is lost{rest}")
        return to_textual_inversion(tokens, token=token)
    require_token(token)
    models = Models(WorkerSettings.from_config(config, find_weights(config).digests, threads=0))
    grid, chosen = load_grid(config.generate.grid), config.generate
    drawing = DrawOptions(chosen.sampler, chosen.steps, chosen.guidance, chosen.batch)
    made = distil_tokens(models.base, tokens, grid, drawing, steps=steps, vectors=vectors)
    console.print(
        f"distilled: on held-out prompts and noise the file loses {made.lost:.1%} of the person's effect on the "
        f"network's predictions (the mean of the vectors {made.lost_by_mean:.1%}); {made.seconds:.0f} s",
        soft_wrap=True,
    )
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
        )
        table = Table("", *MEASURED)
        for name, found in figures.items():
            table.add_row(name, *(f"{found[metric]:.3f}" for metric in MEASURED))
        console.print(table)
    return to_textual_inversion(made.tokens, token=token, notes=made.notes())
