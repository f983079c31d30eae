"""The faceid command. Exit status: 0 complete, 1 our bug, 2 too many failures, 3 configuration, 130 interrupted."""

from __future__ import annotations

import os
import sys

import click

from faceid_core import __version__
from faceid_core.errors import ConfigurationError, FaceidError, MissingWeights
from faceid_core.outcomes import EXIT_BUG, EXIT_CONFIGURATION, EXIT_FAILURES, EXIT_INTERRUPTED
from flows.display import keep_showing
from flows.local_network import exempt_loopback_from_proxy
from flows.stopping import INTERRUPTED, is_interruption, leave, stopped_like_ctrl_c

# Commands are imported when they are called: `faceid --help` must not pay for torch or prefect.
COMMANDS = {
    "run": ("flows.cli_run", "run", "Personalize everybody in the manifest: the nightly job."),
    "plan": ("flows.cli_plan", "plan", "What a run would compute and why, before anything runs."),
    "explain": ("flows.cli_plan", "explain", "Why a stage of a person was computed again."),
    "verify": ("flows.cli_keep", "verify", "Check every manifest and blob of a store."),
    "gc": ("flows.cli_keep", "gc", "Collect garbage in a store; says what it would remove unless told to."),
    "erase": ("flows.cli_keep", "erase", "Erase a person for good, with all versions and rows."),
    "pin": ("flows.cli_keep", "pin", "Keep all results of a run, whatever gc --unused-days lets go."),
    "prepare": (
        "flows.cli_prepare",
        "prepare",
        "Detect, crop and mask photos: a table, a sheet, a picture per person; nothing stored.",
    ),
    "draw": ("flows.cli_tools", "draw", "Draw a person of the store in a prompt of your own."),
    "tokens": ("flows.cli_tools", "tokens", "Write a person's newest tokens as a safetensors file."),
    "status": ("flows.cli_query", "status", "What became of a run, from the store alone."),
    "query": ("flows.cli_query", "query", "Run SQL over the tables of a store."),
    "key": ("flows.cli_query", "key", "The opaque key of an identity id, as it stands in paths and logs."),
    "secret": ("flows.cli_secret", "secret", "Make the identity secret of a store that others share."),
    "serve": ("flows.serve", "serve", "Start a Prefect server with the deployments and their forms."),
    "automations": (
        "flows.cli_automations",
        "automations",
        "Put the automations of infra/ on the Prefect server.",
    ),
    "sheet": ("flows.cli_query", "sheet", "Draw one picture of a run's people: photos and drawn pictures."),
    "tables": ("flows.cli_query", "tables", "Export the tables as plain Parquet files."),
    "study": ("flows.cli_study", "study", "Answer one question about the method with a sweep."),
    "miniature": (
        "flows.cli_miniature",
        "miniature",
        "The synthetic world: a sheet of people, training, its card.",
    ),
    "doctor": ("flows.cli_doctor", "doctor", "Look the machine over before the run."),
    "models": ("flows.cli_models", "models", "Fetch weights that do not ship; lock those that do."),
}
# What these print is what they are called for; what the others print is about their work. "" is `faceid --help`.
_PRODUCT_IS_PRINTED = {"query", "key", "status", "plan", "explain", ""}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        import importlib

        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="faceid")
def cli() -> None:
    """Teach a text-to-image diffusion model new people, one photo each, many a run."""


def main() -> None:
    """Entry point: turn known errors into one clear message and the exit status that the house promises."""
    exempt_loopback_from_proxy(os.environ)
    called = next((word for word in sys.argv[1:] if word in COMMANDS), "")
    keep_showing(product=called in _PRODUCT_IS_PRINTED)
    try:
        with stopped_like_ctrl_c():
            code = cli.main(standalone_mode=False)
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort:  # Ctrl-C, as click tells it
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = EXIT_CONFIGURATION
    except Exception as error:
        code = _tell(error)
    except BaseException as error:
        if not is_interruption(error):
            raise
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        click.echo(INTERRUPTED, err=True)
    leave(code or 0)


def _tell(error: Exception) -> int:
    """Say what ended a command; returns the exit status."""
    if not isinstance(error, FaceidError):
        from flows.external_errors import explain

        error = explain(error) or error
    if isinstance(error, FaceidError):
        click.echo(f"error: {error}", err=True)
        configuration = isinstance(error, ConfigurationError | MissingWeights)
        return EXIT_CONFIGURATION if configuration else EXIT_FAILURES
    import traceback

    traceback.print_exception(error)
    click.echo("this is a bug in faceid; the traceback above says where", err=True)
    return EXIT_BUG
