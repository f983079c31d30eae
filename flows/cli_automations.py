"""faceid automations: create or update automations on a Prefect server.

Prefect is imported in the functions: help pages do not need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from faceid_core.errors import ConfigurationError
from faceid_core.yaml_text import read_yaml
from flows.prefect_server import require_server

FILES = Path(__file__).parents[1] / "infra" / "prefect" / "automations"
BLOCK_PLACEHOLDER = "notify-block"
BLOCK = "faceid-failures"
KINDS = ("slack", "teams", "webhook")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--notify",
    "url",
    envvar="FACEID_NOTIFY_URL",
    help="Address of the webhook for messages; kept on the server, encrypted, so later calls may leave it out.",
)
@click.option(
    "--notify-kind",
    "kind",
    type=click.Choice(KINDS),
    default="slack",
    show_default=True,
    help="Kind of webhook; webhook is any that takes JSON with subject and body.",
)
def automations(files: tuple[Path, ...], url: str | None, kind: str) -> None:
    """FILES are YAML files or folders (default: infra/prefect/automations); the server is the one of PREFECT_API_URL.
    An automation that exists by name is updated, and stays off if it was switched off. Automations that send a
    message need --notify, in this call or an earlier one.

    \b
    Example:
      faceid automations --notify https://hooks.slack.com/services/...
    """
    require_server()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        block = save_block(url, kind) if url else known_block()
        for automation in read_automations(files or (FILES,)):
            if block is None and needs_block(automation):
                click.echo(f"{automation['name']}: left out; give the address of its messages with --notify")
                continue
            click.echo(f"{automation['name']}: {put(client, automation, block)}")


def read_automations(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    """The automations of YAML files, and of all those in folders.

    Raises:
        ConfigurationError: a file holds no automation.
    """
    found = []
    for file in files:
        if not file.exists():
            raise ConfigurationError(f"{file} does not exist; the repository has the automations in infra/")
        for each in sorted(file.glob("*.yaml")) if file.is_dir() else [file]:
            try:
                data = read_yaml(each.read_bytes(), source=str(each), what="an automation")
            except OSError as error:
                raise ConfigurationError(f"{each} cannot be read: {error.strerror}") from None
            if (
                not isinstance(data, dict)
                or not {"name", "trigger", "actions"} <= set(data)
                or not _acts(data)
            ):
                raise ConfigurationError(
                    f"{each} holds no automation: it needs the keys name, trigger and actions"
                )
            found.append(data)
    return found


def _acts(data: dict[str, Any]) -> bool:
    actions = data["actions"]
    return isinstance(actions, list) and all(isinstance(each, dict) for each in actions)


def needs_block(automation: dict[str, Any]) -> bool:
    """Whether an automation sends a message."""
    return any(action.get("block_document_id") == BLOCK_PLACEHOLDER for action in automation["actions"])


def put(client: Any, automation: dict[str, Any], block: str | None) -> str:
    """Create an automation, or update the one of that name, which stays switched on or off; returns which was done.

    Raises:
        ConfigurationError: Prefect refuses the automation.
    """
    from prefect.events.schemas.automations import AutomationCore

    actions = [
        {**action, "block_document_id": block}
        if action.get("block_document_id") == BLOCK_PLACEHOLDER
        else action
        for action in automation["actions"]
    ]
    try:
        wanted = AutomationCore.model_validate({**automation, "actions": actions})
    except ValidationError as error:
        raise ConfigurationError(
            f"automation {automation['name']!r} is refused by Prefect: {error}"
        ) from None
    existing = client.read_automations_by_name(wanted.name)
    if existing:
        wanted.enabled = existing[0].enabled
        client.update_automation(existing[0].id, wanted)
        return "brought up to date"
    client.create_automation(wanted)
    return "made"


def put_silent(client: Any) -> None:
    """Create or update the automations of infra/ that send no message."""
    for automation in read_automations((FILES,)):
        if not needs_block(automation):
            put(client, automation, None)


def save_block(url: str, kind: str) -> str:
    """Store the address on the server; returns the id of its block.

    Raises:
        ConfigurationError: this is not the address of such a webhook.
    """
    from prefect.blocks import notifications

    if not url.startswith(("https://", "http://")):
        raise ConfigurationError("--notify is not the address of a webhook, which begins with https://")
    if kind == "webhook":
        # The url of a block is shown in the UI; its secrets are encrypted.
        block = notifications.CustomWebhookNotificationBlock(
            name=BLOCK,
            url="{{address}}",
            secrets={"address": url},
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
        )
    else:
        made = {"slack": notifications.SlackWebhook, "teams": notifications.MicrosoftTeamsWebhook}
        try:
            block = made[kind](url=url)
        except ValueError as error:
            raise ConfigurationError(f"--notify is not the address of a {kind} webhook: {error}") from None
    return str(block.save(BLOCK, overwrite=True))


def known_block() -> str | None:
    """The id of the block that an earlier call saved; None if there is none."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [each for each in client.read_block_documents() if each.name == BLOCK]
    return str(max(found, key=lambda each: each.updated).id) if found else None
