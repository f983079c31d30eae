"""Commands for day one: draw a person, write a person's tokens, lock the shipped models."""

from __future__ import annotations

from pathlib import Path

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.identity import validate_identity_id
from faceid_core.personalize.control import SIDES, IdentityUse, parse_stages
from faceid_core.personalize.token_word import DEFAULT_TOKEN, token_for
from faceid_core.private import write_private
from flows.options import config_options


@click.command(short_help="Draw a person of the store.")
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
    help="Prompt with V* once, e.g. 'a photo of V* on the beach'; with several people V1*, V2*, ... in their order.",
)
@click.option(
    "--seeds", default=4, show_default=True, type=click.IntRange(1, 64), help="Pictures, seeds 0 to n-1."
)
@click.option("--out", default="", help="PNG to write; default: <identities>.png in the present folder.")
@click.option(
    "--stages", help="Stages that use the person, e.g. 1,2,3 or 3-5 (1: least noise); else the class word."
)
@click.option("--sides", type=click.Choice(SIDES), help="Use the person's keys, values, or both.")
@click.option("--strength", type=click.FloatRange(0, 1), help="0: the class word, 1: the person.")
@config_options
def draw(
    config: NightlyConfig,
    identity_ids: tuple[str, ...],
    prompt: str,
    seeds: int,
    out: str,
    stages: str | None,
    sides: str | None,
    strength: float | None,
) -> None:
    """Draw one person, or several together, in a prompt of your own, with the newest tokens that the store holds."""
    from faceid_core.evaluate.generation import DrawRequest
    from faceid_core.evaluate.generation import draw as draw_pictures
    from faceid_core.personalize.tokens import IdentityTokens
    from faceid_core.report.contact_sheet import contact_sheet
    from faceid_core.run.latest_results import newest_tokens
    from faceid_core.stages.models import Models, WorkerSettings
    from faceid_core.stages.weights import find_weights

    target = _target(out or f"{'-'.join(validate_identity_id(each) for each in identity_ids)}.png")
    people = tuple(IdentityTokens.from_bytes(newest_tokens(config, each)) for each in identity_ids)
    subject = people if len(people) > 1 else people[0]
    chosen = config.generate
    use = IdentityUse(
        chosen.use_stages if stages is None else parse_stages(stages),
        sides or chosen.use_sides,
        chosen.use_strength if strength is None else strength,
    )
    models = Models(WorkerSettings.from_config(config, find_weights(config).digests, threads=0))
    pictures = draw_pictures(
        models.base,
        [DrawRequest(subject, prompt, seed, use) for seed in range(seeds)],
        sampler=config.generate.sampler,
        steps=config.generate.steps,
        guidance=config.generate.guidance,
        batch=min(seeds, config.generate.batch),
        record_attention=False,
    )
    write_private(target, contact_sheet([(prompt, [picture.image for picture in pictures])]))
    click.echo(f"wrote {target}")


@click.command(short_help="Write a person's tokens as a file.")
@click.argument("identity_id")
@click.option(
    "--out", default="", help="File to write; default: <identity>.safetensors in the present folder."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["native", "textual-inversion"]),
    default="native",
    show_default=True,
    help="native: everything; textual-inversion: what diffusers' load_textual_inversion and other tools read.",
)
@click.option(
    "--token",
    default=DEFAULT_TOKEN,
    show_default=True,
    help="The other tool's word for the person, in lower case; {id} in it stands for the id, which every reader of the "
    "file sees, {key} for eight digits of the person's key.",
)
@click.option(
    "--distil-steps",
    default=300,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Steps of distilling stages, keys and values into one context; 0 takes their mean.",
)
@click.option(
    "--distil-vectors",
    type=click.IntRange(1, 16),
    help="Token positions that the person takes in the file.  [default: as many as the tokens take]",
)
@click.option(
    "--measure", is_flag=True, help="Also draw the grid with both and score it, which takes minutes."
)
@click.option(
    "--script", default="", help="Also write a plain diffusers script that draws the exported person."
)
@click.option(
    "--script-prompt", default="a photo of V*", show_default=True, help="Prompt of the script, with V* once."
)
@click.option(
    "--script-seed", default=0, show_default=True, help="Seed of `faceid draw` whose picture it draws."
)
@config_options
def tokens(
    config: NightlyConfig,
    identity_id: str,
    out: str,
    kind: str,
    token: str,
    distil_steps: int,
    distil_vectors: int | None,
    measure: bool,
    script: str,
    script_prompt: str,
    script_seed: int,
) -> None:
    """Write the newest tokens of IDENTITY_ID for the configured base model; they are as private as the photo."""
    from faceid_core.run.latest_results import newest_tokens
    from faceid_core.run.store_access import open_with_secret

    target = _target(out or f"{validate_identity_id(identity_id)}.safetensors")
    if script and kind != "textual-inversion":
        raise ConfigurationError(
            "--script draws what other tools read: give --format textual-inversion with it"
        )
    data = newest_tokens(config, identity_id)
    if kind == "native":
        write_private(target, data)
        click.echo(f"wrote {target}")
        return
    from flows.export import write_script, write_textual_inversion

    word = token_for(token, identity_id, open_with_secret(config)[1].identity_key(identity_id))
    # What cannot be used is said before the minutes of distilling.
    text, drawing = "", _target(script) if script else None
    if drawing:
        text = write_script(
            config,
            str(target),
            data,
            token=word,
            vectors=distil_vectors,
            prompt=script_prompt,
            seed=script_seed,
        )
    write_textual_inversion(
        config,
        identity_id,
        data,
        token=word,
        steps=distil_steps,
        vectors=distil_vectors,
        measured=measure,
        target=target,
    )
    click.echo(f"wrote {target}; in prompts the person is {word}")
    if drawing:
        write_private(drawing, text.encode())
        click.echo(f"wrote {drawing}")


def _target(out: str) -> Path:
    """The file to write; its folder is made before any work is done.

    Raises:
        ConfigurationError: nothing can be written there.
    """
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    if target.is_dir():
        raise ConfigurationError(f"cannot write {out}: it is a folder; name a file in it with --out")
    return target


@click.group(short_help="Fetch and lock models.")
def models() -> None:
    """The models: those that ship with the project, and those that photographs need besides."""


@models.command("lock")
def lock() -> None:
    """Write models.lock anew from the shipped folders; every stage key that uses a changed model changes with it."""
    from faceid_core.weights.lock import SHIPPED, write_lock

    folders = {folder.name: folder for folder in sorted(SHIPPED.parent.iterdir()) if folder.is_dir()}
    written = write_lock(SHIPPED, folders)
    for name in sorted(folders):
        click.echo(f"{name:<12} {written.digest(name)}")
    click.echo(f"wrote {SHIPPED}")
