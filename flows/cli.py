"""The faceid command. Exit status: 0 complete, 1 bug, 2 too many failures, 3 configuration, 4 worse, 130 interrupted."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from inspect import cleandoc

import click

from faceid_core.errors import ConfigurationError, FaceidError, MissingWeights, without_people
from faceid_core.outcomes import EXIT_BUG, EXIT_CONFIGURATION, EXIT_FAILURES
from flows.display import is_logged, protect_standard_streams
from flows.local_network import exempt_loopback_from_proxy
from flows.stopping import EXIT_INTERRUPTED, INTERRUPTED, is_interruption, leave, stopped_like_ctrl_c

# Module, name and sentence of each command. A module is imported when its command is called, so that `faceid --help`
# pays for none of them; the sentence is also the first of the command's own help. A command's module imports what it
# works with (the store, the stages, pyarrow, rich) in its functions, so that its help page does not load it.
COMMANDS = {
    "run": ("flows.cli_run", "run", "Personalize the identities of the manifest: the nightly run."),
    "plan": ("flows.cli_plan", "plan", "Show what a run would compute, and why."),
    "explain": ("flows.cli_plan", "explain", "Show why a stage of an identity was computed again."),
    "status": ("flows.cli_query", "status", "Show what became of a run."),
    "query": ("flows.cli_query", "query", "Run SQL over the tables of a store."),
    "tables": ("flows.cli_query", "tables", "Export the tables of a store."),
    "compare": ("flows.cli_compare", "compare", "Compare two runs, and fail where the later one is worse."),
    "promote": ("flows.cli_compare", "promote", "Make a run the current one that downstream readers use."),
    "sheet": ("flows.cli_query", "sheet", "Draw a contact sheet of a run: photos and evaluation images."),
    "draw": ("flows.cli_tools", "draw", "Draw learned identities in a prompt of your own."),
    "tokens": ("flows.cli_tools", "tokens", "Write the learned tokens of an identity as a file."),
    "config": ("flows.cli_config", "config", "Show the keys of the configuration and their values."),
    "prepare": ("flows.cli_prepare", "prepare", "Detect, crop and mask photos without a run."),
    "doctor": ("flows.cli_doctor", "doctor", "Check whether this machine can do a run."),
    "models": ("flows.cli_models", "models", "Fetch and lock model weights."),
    "verify": ("flows.cli_keep", "verify", "Check every manifest and blob of a store."),
    "gc": ("flows.cli_keep", "gc", "Count or remove what no result of a store needs."),
    "pin": ("flows.cli_keep", "pin", "Keep the results of a run, whatever gc removes."),
    "erase": ("flows.cli_keep", "erase", "Erase an identity for good, with all versions and rows."),
    "erase-expired": ("flows.cli_expired", "erase_expired", "Erase identities whose consent ended long ago."),
    "key": ("flows.cli_query", "key", "Print the key of an identity, as paths and logs show it."),
    "secret": ("flows.cli_secret", "secret", "Make the identity secret of a shared store."),
    "store": ("flows.cli_store", "store", "Migrate a store of an earlier version."),
    "serve": ("flows.serve", "serve", "Serve the deployments and their forms in the Prefect UI."),
    "automations": ("flows.cli_automations", "automations", "Put automations on the Prefect server."),
    "study": ("flows.cli_study", "study", "Answer one question about the method with a sweep."),
    "miniature": ("flows.cli_miniature", "miniature", "Draw, train and measure the synthetic world."),
}
# What these print is their product; the others report on their work. "" is `faceid --help`.
_PRODUCT_IS_PRINTED = {"query", "compare", "key", "status", "plan", "explain", "config", ""}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, sentence = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        # The docstring goes on where the sentence ends.
        command.help = f"{sentence}\n\n{cleandoc(command.callback.__doc__ or '')}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from faceid_core.version import version_text  # only here: it may start git

        click.echo(f"faceid {version_text()}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and the source revision.",
)
def cli() -> None:
    """Teach a text-to-image diffusion model new people, from one photo each."""


def main() -> None:
    """Run a command; a known error ends it with one clear message and its exit status."""
    exempt_loopback_from_proxy(os.environ)
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # whose advice is about calls that a user does not make
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    called = next((word for word in sys.argv[1:] if word in COMMANDS), "")
    protect_standard_streams(product=called in _PRODUCT_IS_PRINTED)
    try:
        with stopped_like_ctrl_c():
            code = cli.main(standalone_mode=False)
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort:  # click's name for Ctrl-C
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = EXIT_CONFIGURATION
    except Exception as error:
        code = _report(error)
    except BaseException as error:
        if not is_interruption(error):
            raise
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        click.echo(INTERRUPTED, err=True)
    leave(code or 0)


def _report(error: Exception) -> int:
    """Print the error that ended a command; returns the exit status."""
    if not isinstance(error, FaceidError):
        from flows.external_errors import explain  # only here: it loads pydantic

        error = explain(error) or error
    if isinstance(error, FaceidError):
        click.echo(f"error: {without_people(error) if is_logged() else error}", err=True)
        configuration = isinstance(error, ConfigurationError | MissingWeights)
        return EXIT_CONFIGURATION if configuration else EXIT_FAILURES
    traceback.print_exception(error)
    click.echo("this is a bug in faceid; the traceback above says where", err=True)
    return EXIT_BUG
