"""Commands that keep a store in order: verify, gc, pin, erase."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, ObjectMissing
from faceid_core.outcomes import EXIT_COMPLETE, EXIT_CONFIGURATION, EXIT_FAILURES
from flows.options import takes_config

if TYPE_CHECKING:
    from faceid_core.store.tombstone import Receipt

_MOST_FINDINGS = 50


class _Days(click.FloatRange):
    """A number of days; click would let nan and inf pass."""

    def convert(self, value, param, ctx) -> float:
        days = super().convert(value, param, ctx)
        if not isfinite(days):
            self.fail(f"{value} is no number of days", param, ctx)
        return days


@click.command()
@takes_config("store")
@click.option(
    "--repair", is_flag=True, help="Set damaged results aside, so that the next run makes them again."
)
@click.option(
    "--threads",
    default=8,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Scopes read at the same time.",
)
def verify(config: NightlyConfig, repair: bool, threads: int) -> None:
    """Every manifest and every blob is read; what is damaged, missing or orphaned is printed. Exit status 2 if
    anything is damaged or missing. Orphans are no damage: faceid gc removes them. Without --repair the store stays
    as it is.
    """
    from rich.console import Console
    from rich.progress import Progress

    from faceid_core.run.store_access import open_existing
    from faceid_core.upkeep.verify import verify as verify_store

    store = open_existing(config)
    console = Console(highlight=False)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("scopes", total=None)
        found = verify_store(
            store,
            repair=repair,
            threads=threads,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    for finding in found.findings[:_MOST_FINDINGS]:
        console.print(str(finding), soft_wrap=True, markup=False)
    if len(found.findings) > _MOST_FINDINGS:
        console.print(f"and {len(found.findings) - _MOST_FINDINGS} more")
    console.print(f"{found.manifests} manifests and {found.blobs} blobs ({size(found.bytes)}) read")
    console.print(f"{found.orphans} orphaned blobs ({size(found.orphan_bytes)}); faceid gc removes them")
    if found.sound:
        console.print("everything that a result needs is there and is what was written")
        raise click.exceptions.Exit(EXIT_COMPLETE)
    console.print(", ".join(f"{count} {kind}" for kind, count in found.counts().items()))
    if repair:
        console.print(
            f"{found.repaired} objects set aside or removed; the next run makes what is missing again"
        )
    else:
        console.print(
            "faceid verify --repair sets damaged results aside, so that the next run makes them again"
        )
    raise click.exceptions.Exit(EXIT_FAILURES)


@click.command()
@takes_config("store")
@click.option("--delete", is_flag=True, help="Remove the garbage; without this it is only counted.")
@click.option(
    "--grace-days",
    default=7.0,
    show_default=True,
    type=_Days(0, 36_500),
    help="Objects younger than this are kept; at least an hour, because a running process may refer to them next.",
)
@click.option(
    "--unused-days",
    type=_Days(0, 36_500),
    help="Also remove results that no run used within so many days, unless pinned.  [default: keep all]",
)
def gc(config: NightlyConfig, delete: bool, grace_days: float, unused_days: float | None) -> None:
    """Garbage is what no result, pin, page or table needs and what is older than a grace period. It is counted;
    --delete removes it and finishes erasures that are due. The identities of a running run are left alone.
    """
    from rich.console import Console

    from faceid_core.run.store_access import open_existing
    from faceid_core.upkeep.erase import finish_erasures
    from faceid_core.upkeep.gc import collect

    store = open_existing(config)
    console = Console(highlight=False)

    def report(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    unfinished: frozenset[str] = frozenset()
    if delete:
        erasures = finish_erasures(store, report=report)
        unfinished = erasures.unfinished
        for receipt in erasures.receipts:
            console.print(f"erasure of {receipt.identity_key}: {receipt.state}")
    found = collect(store, grace_days * 86_400, delete, unused_days=unused_days, report=report)
    if found.grace > grace_days * 86_400:
        console.print(
            f"--grace-days {grace_days:g} was raised: the grace period is one hour at least, because nothing refers yet "
            "to what a running process wrote last",
            soft_wrap=True,
        )
    for kind, count in sorted(found.counts.items()):
        console.print(f"{kind:<22} {count:>8}  {size(found.bytes[kind])}")
    verb = "removed" if delete else "would be removed (with --delete)"
    console.print(f"{found.objects} objects, {size(sum(found.bytes.values()))} {verb}")
    if found.compacted:
        console.print(f"{found.compacted} small files of the tables were merged")
    if found.kept_young:
        console.print(
            f"{found.kept_young} more are within the grace period of {found.grace / 86_400:.3g} days"
        )
    if found.scopes_in_use:
        console.print(f"{found.scopes_in_use} scopes were left alone: a run is running")
    if found.scopes_in_doubt:
        console.print(
            f"{found.scopes_in_doubt} scopes hold manifests that cannot be read, or symbolic links: faceid verify"
        )
    for record in found.damaged:
        console.print(f"damaged record: {record}", soft_wrap=True, markup=False)
    if unfinished:
        raise click.exceptions.Exit(EXIT_FAILURES)


@click.command()
@click.argument("run_id")
@takes_config("store")
@click.option("--remove", is_flag=True, help="Remove the pin.")
def pin(run_id: str, config: NightlyConfig, remove: bool) -> None:
    """faceid gc --unused-days then keeps every result that RUN_ID used. faceid status prints the latest run id."""
    from faceid_core.run.records import read_request
    from faceid_core.run.store_access import open_existing
    from faceid_core.store import layout

    store = open_existing(config)
    try:
        read_request(store, run_id)
    except ObjectMissing:
        raise ConfigurationError(
            f"{config.store} holds no run {run_id!r}; faceid status shows the latest"
        ) from None
    if remove:
        store.delete(layout.pin(run_id))
    else:
        store.put_if_absent(layout.pin(run_id), b"{}")
    click.echo(f"run {run_id} is {'no longer ' if remove else ''}pinned")


second_sweep = click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait a minute for the second sweep; else faceid gc --delete does it.",
)


@click.command()
@click.argument("identity_id", metavar="IDENTITY")
@takes_config("store")
@click.option("--yes", is_flag=True, help="Do not ask.")
@second_sweep
def erase(identity_id: str, config: NightlyConfig, yes: bool, wait: bool) -> None:
    """Every object of IDENTITY is removed with all versions, and every row; a second sweep removes what was being
    written meanwhile. Runs refuse the identity from then on. The receipt is printed and kept in the store under the
    identity key. After an interruption, the same command goes on.

    What lies outside the store is not touched: the photo, the manifest, backups, replicas of the bucket.
    """
    from faceid_core.identity import validate_identity_id
    from faceid_core.run.store_access import open_with_secret
    from faceid_core.store.tombstone import COMPLETE
    from faceid_core.upkeep.erase import erase as erase_identity
    from faceid_core.upkeep.erase import holds_person

    store, secret = open_with_secret(config)
    key = secret.identity_key(validate_identity_id(identity_id))
    unknown = "" if holds_person(store, key) else "; the store has no object of this id: check its spelling"
    if not yes and not confirmed(f"Erase {identity_id} ({key}) from {config.store}? It cannot be undone{unknown}"):
        click.echo("nothing was erased", err=True)
        raise click.exceptions.Exit(EXIT_CONFIGURATION)
    receipt = erase_identity(
        store, secret, identity_id, wait=wait, report=lambda text: click.echo(text, err=True)
    )
    click.echo(json.dumps(shown_receipt(receipt), indent=2))
    if wait and receipt.state != COMPLETE:
        raise click.exceptions.Exit(EXIT_FAILURES)


def shown_receipt(receipt: Receipt) -> dict[str, Any]:
    """A receipt as it is printed, without the keys of the person's results."""
    return {name: value for name, value in asdict(receipt).items() if name != "stage_keys"}


def confirmed(question: str) -> bool:
    """Whether the answer is yes; without a terminal it is no."""
    try:
        return click.confirm(question, err=True)  # the output is the receipt
    except click.Abort:
        return False


def size(count: float) -> str:
    """A number of bytes as text in the unit that suits it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
