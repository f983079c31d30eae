"""faceid secret: makes the identity secret of stores that several machines or people share."""

from __future__ import annotations

import click


@click.group(short_help="Make the identity secret of a shared store.")
def secret() -> None:
    """The identity secret, which turns ids into the opaque keys that a store's paths, logs and tables show."""


@secret.command("init", short_help="Make the secret, once.")
def init() -> None:
    """Make an identity secret in a file, and say how to keep it. Refused where this environment has one already.

    The file is the one that FACEID_IDENTITY_SECRET_FILE names, or else faceid/identity-secret in ~/.config. The secret
    itself is not printed.
    """
    from faceid_core.store.secret import VARIABLE, IdentitySecret

    made = IdentitySecret.make()
    click.echo(f"wrote {made.source} (mode 600), fingerprint {made.fingerprint}")
    click.echo(
        f"""
Keep it before the first run:
  1. Put the file's line into your secret manager now. A store works with the secret that it was made with and no
     other: without it no run runs on the store, and no identity in it can be looked up or erased.
  2. Give the same secret to every machine that runs runs or erases: as {VARIABLE}, or as this file.
  3. Keep it out of the store, of repositories and of logs: it turns a list of ids into the store's keys.
The fingerprint may be shown: store.json holds it, and faceid doctor compares it."""
    )
