"""Commands that use what was learned: draw identities, write their tokens as files.

Drawing and exporting import torch and diffusers, which help pages do not need: they are imported in the functions.
"""

from __future__ import annotations

from pathlib import Path

import click

from faceid_core.config import NightlyConfig
from faceid_core.config.control import IdentityUse, parse_stages
from faceid_core.config.keys import all_keys
from faceid_core.errors import ConfigurationError
from faceid_core.personalize.prompts import DEFAULT_TOKEN_PATTERN
from faceid_core.private import write_private
from flows.options import takes_config


@click.command()
@takes_config("store")
@click.option(
    "--identity",
    "identity_ids",
    required=True,
    multiple=True,
    help="Identity id, as in the manifest. May be repeated.",
)
@click.option(
    "--prompt",
    required=True,
    help="Prompt with V* once, as in 'a photo of V* on the beach'; for several identities V1*, V2*, ... in their order.",
)
@click.option(
    "--seeds", default=4, show_default=True, type=click.IntRange(1, 64), help="Images, seeds 0 to n-1."
)
@click.option("--out", default="", help="PNG to write.  [default: IDENTITIES.png]")
@click.option(
    "--stages",
    help="Stages that use the learned tokens, as in 1,2,3 or 3-5 (1: least noise); the others use the class word.  "
    "[default: generate.use_stages]",
)
@click.option(
    "--kv",
    type=click.Choice(all_keys()["generate.use_kv"].choices),
    help="Use the learned keys (k), values (v) or both.  [default: generate.use_kv]",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    help="0: the class word, 1: the identity.  [default: generate.use_strength]",
)
def draw(
    config: NightlyConfig,
    identity_ids: tuple[str, ...],
    prompt: str,
    seeds: int,
    out: str,
    stages: str | None,
    kv: str | None,
    strength: float | None,
) -> None:
    """The newest tokens that the store holds are used. Several identities can share an image if the base model draws
    several people; the miniature draws one, or a mixture twice.

    \b
    Examples:
      faceid draw --identity ann --prompt "a photo of V* on the beach"
      faceid draw --identity ann --prompt "V* as a knight" --stages 1-3 --kv k
      faceid draw --identity ann --identity bob --prompt "V1* and V2* at a table"
      faceid draw --identity ann --prompt "V* at a table" --set generate.width=768
    """
    from faceid_core.identity import validate_identity_id
    from faceid_core.personalize.prompts import split_prompt, split_several

    target = _target(out or f"{'-'.join(validate_identity_id(each) for each in identity_ids)}-drawn.png")
    # What cannot be drawn is said before the seconds of loading the libraries and a model.
    if len(identity_ids) > 1:
        split_several(prompt, len(identity_ids))
    else:
        split_prompt(prompt)
    from rich.console import Console
    from rich.progress import Progress

    from faceid_core.evaluate.generation import DrawRequest
    from faceid_core.evaluate.generation import draw as draw_pictures
    from faceid_core.personalize.tokens import IdentityTokens
    from faceid_core.report.contact_sheet import contact_sheet
    from faceid_core.report.synthetic_mark import SyntheticMark
    from faceid_core.run.latest_results import newest_tokens
    from faceid_core.stages.models import Models, WorkerSettings
    from faceid_core.weights.resolve import resolve_all

    people = tuple(IdentityTokens.from_bytes(newest_tokens(config, each)) for each in identity_ids)
    subject = people if len(people) > 1 else people[0]
    chosen = config.generate
    use = IdentityUse(
        chosen.use_stages if stages is None else parse_stages(stages),
        kv or chosen.use_kv,
        chosen.use_strength if strength is None else strength,
        chosen.adjust_length,
        chosen.adjust_direction,
    )
    batch = min(seeds, config.generate.batch)
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("loading the model", total=None)
        found = resolve_all(config)
        size = config.generate.size(found.base.resolution)
        found.base.latent_shape_of(size)
        models = Models(WorkerSettings.from_config(config, found.digests, threads=0))
        base = models.base
        if len(people) > 1 and base.description.draws_one_person:
            console.print(
                f"note: the base model {base.description.name} was trained on pictures of one person and draws one where "
                "the prompt names several, or in a wide picture a mixture of them twice; use a model that draws several",
                soft_wrap=True,
            )
        bars.update(task, description="drawing", total=-(-seeds // batch) * config.generate.steps)
        pictures = draw_pictures(
            base,
            [DrawRequest(subject, prompt, seed, use) for seed in range(seeds)],
            sampler=config.generate.sampler,
            steps=config.generate.steps,
            guidance_scale=config.generate.guidance_scale,
            batch=batch,
            size=size,
            record_attention=False,
            on_step=lambda: bars.advance(task),
        )
        images = [picture.image for picture in pictures]
    mark = SyntheticMark(base.description.digest)
    write_private(target, contact_sheet([(prompt, images)], mark=mark))
    click.echo(f"wrote {target}")


@click.command()
@click.argument("identity_id")
@takes_config("store")
@click.option("--out", default="", help="File to write.  [default: IDENTITY_ID.safetensors]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["native", "textual-inversion"]),
    default="native",
    show_default=True,
    help="native: all that was learned; textual-inversion: for diffusers' load_textual_inversion and other tools.",
)
@click.option(
    "--token",
    default=DEFAULT_TOKEN_PATTERN,
    show_default=True,
    help="Placeholder token in the other tool, in lower case. {id} stands for the identity id, which readers of the "
    "file then see, {key} for eight digits of its key.",
)
@click.option(
    "--distill-steps",
    default=300,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Steps of distillation of stages, keys and values into one context; 0 takes their mean.",
)
@click.option(
    "--distill-vectors",
    type=click.IntRange(1, 16),
    help="Token positions in the file.  [default: as many as were learned]",
)
@click.option(
    "--measure", is_flag=True, help="Draw and score the prompt grid with both formats, which takes minutes."
)
@click.option("--script", default="", help="Also write a diffusers script that draws the exported identity.")
@click.option(
    "--script-prompt", default="a photo of V*", show_default=True, help="Prompt of that script, with V* once."
)
@click.option("--script-seed", default=0, show_default=True, help="Seed of that script, as of faceid draw.")
def tokens(
    config: NightlyConfig,
    identity_id: str,
    out: str,
    kind: str,
    token: str,
    distill_steps: int,
    distill_vectors: int | None,
    measure: bool,
    script: str,
    script_prompt: str,
    script_seed: int,
) -> None:
    """The newest tokens of IDENTITY_ID for the configured base model are written. They are as private as the photo.

    \b
    Examples:
      faceid tokens ann --out ann.safetensors
      faceid tokens ann --format textual-inversion --token "<ann>"
    """
    from faceid_core.identity import validate_identity_id
    from faceid_core.personalize.prompts import placeholder_token
    from faceid_core.run.latest_results import newest_tokens
    from faceid_core.run.store_access import open_with_secret

    ending = ".safetensors" if kind == "native" else f"-{kind}.safetensors"
    target = _target(out or f"{validate_identity_id(identity_id)}{ending}")
    if script and kind != "textual-inversion":
        raise ConfigurationError(
            "--script draws what other tools read: give --format textual-inversion with it"
        )
    data = newest_tokens(config, identity_id)
    if kind == "native":
        write_private(target, data)
        click.echo(f"wrote {target}")
        return
    from faceid_core.personalize.export import POOLING_REPAIR
    from faceid_core.personalize.tokens import IdentityTokens
    from flows.export import write_script, write_textual_inversion

    word = placeholder_token(token, identity_id, open_with_secret(config)[1].identity_key(identity_id))
    # What cannot be used is said before the minutes of distillation.
    text, drawing = "", _target(script) if script else None
    if drawing:
        text = write_script(
            config,
            str(target),
            data,
            token=word,
            vectors=distill_vectors,
            prompt=script_prompt,
            seed=script_seed,
        )
    write_textual_inversion(
        config,
        identity_id,
        data,
        token=word,
        steps=distill_steps,
        vectors=distill_vectors,
        measured=measure,
        target=target,
    )
    click.echo(f"wrote {target}; in prompts the person is {word}")
    if len(IdentityTokens.from_bytes(data).tensors) > 1:
        click.echo(f"after loading it elsewhere, keep the pooled embedding right: {POOLING_REPAIR}")
    if drawing:
        write_private(drawing, text.encode())
        click.echo(f"wrote {drawing}")


def _target(out: str) -> Path:
    """The file to write; its folder is made before any work is done.

    Raises:
        ConfigurationError: the folder cannot be made, or a folder has that name.
    """
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    if target.is_dir():
        raise ConfigurationError(f"cannot write {out}: it is a folder; name a file in it with --out")
    return target
