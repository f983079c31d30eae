"""faceid secret: makes the identity secret of a store that several machines or people share."""

from __future__ import annotations

import click

from faceid_core.store.secret import VARIABLE, IdentitySecret


@click.group()
def secret() -> None:
    """The secret turns identity ids into the keys that paths, logs and tables show."""


@secret.command("init")
def init() -> None:
    """Make an identity secret, once, in a file.

    The file is the one of FACEID_IDENTITY_SECRET_FILE, or faceid/identity-secret in ~/.config. The secret itself is
    not printed. If this environment has a secret already, the command refuses.
    """
    made = IdentitySecret.make()
    click.echo(f"wrote {made.source} (mode 600), fingerprint {made.fingerprint}")
    click.echo(
        f"""
Keep it before the first run:
  1. Put the file's line into your secret manager now. A store works only with the secret that it was made with:
     without it no run can use the store, and no identity in it can be looked up or erased.
  2. Give the same secret to every machine that does runs or erasures: as {VARIABLE}, or as this file.
  3. Keep it out of the store, of repositories and of logs: it turns a list of ids into the store's keys.
The fingerprint may be shown: store.json holds it, and faceid doctor compares it."""
    )
