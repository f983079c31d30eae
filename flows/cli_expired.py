"""faceid erase-expired: people whose consent has ended, and their erasure after a grace period."""

from __future__ import annotations

import json

import click

from faceid_core.config import NightlyConfig
from faceid_core.outcomes import EXIT_CONFIGURATION, EXIT_FAILURES
from flows.cli_keep import confirmed, second_sweep, shown_receipt
from flows.options import takes_config


@click.command("erase-expired")
@takes_config("identities", "store")
@click.option("--dry-run", is_flag=True, help="List them and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@second_sweep
def erase_expired(config: NightlyConfig, dry_run: bool, yes: bool, wait: bool) -> None:
    """People of the manifest are listed whose consent_until has passed and of whom the store holds data. Those whose
    consent ended more than consent.erase_after_days ago are erased, as by faceid erase, with a receipt each; without
    that key none is. A consent that is renewed in the manifest before then keeps its person.

    \b
    Example:
      faceid erase-expired --config run.yaml --set consent.erase_after_days=30
    """
    from faceid_core.run.store_access import open_with_secret
    from faceid_core.upkeep.expired import erase_expired, expired_consents

    store, secret = open_with_secret(config)
    found = expired_consents(config, store, secret)
    for person in found:
        ended = f"consent ended {person.days} day{'s' if person.days > 1 else ''} ago"
        click.echo(f"{person.identity_id} ({person.identity_key}): {ended}{', due' if person.due else ''}", err=True)
    due = sum(person.due for person in found)
    grace = config.consent.erase_after_days
    rule = "consent.erase_after_days is not set" if grace is None else f"more than {grace} days ago: {due}"
    click.echo(f"consents that ended: {len(found)}; {rule}", err=True)
    if dry_run or grace is None:
        return
    if due and not yes and not confirmed(f"Erase {due} of them from {config.store}? It cannot be undone"):
        click.echo("none was erased", err=True)
        raise click.exceptions.Exit(EXIT_CONFIGURATION)
    erased = erase_expired(
        config, store, secret, found, wait=wait, report=lambda text: click.echo(text, err=True)
    )
    click.echo(json.dumps([shown_receipt(receipt) for receipt in erased.receipts], indent=2))
    if erased.unfinished:
        raise click.exceptions.Exit(EXIT_FAILURES)
