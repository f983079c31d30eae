"""Which Prefect server a command uses; `flows.prefect_health` asks it.

Prefect is imported in the functions: it is heavy, and a setting that it cannot read ends its import.
"""

from __future__ import annotations

from pydantic import ValidationError

from faceid_core.errors import ConfigurationError, ServerAway


def configured_server() -> str | None:
    """The address of the server that the user names in the environment, in a profile or in a file of Prefect's.

    Raises:
        ConfigurationError: Prefect cannot read its settings.
    """
    try:
        from prefect.settings import get_current_settings

        return get_current_settings().api.url
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"a setting of Prefect's is wrong: {wrong}") from None


def require_may_start_server() -> None:
    """Require that Prefect's client may start a server where none is named.

    Raises:
        ConfigurationError: Prefect's settings forbid it.
    """
    from prefect.settings import get_current_settings

    if not get_current_settings().server.ephemeral.enabled:
        raise ConfigurationError(
            "PREFECT_API_URL is not set, and Prefect's settings do not let a run start a server of its own; "
            "name a server with PREFECT_API_URL, or set PREFECT_SERVER_EPHEMERAL_ENABLED=true"
        )


def require_server() -> str:
    """The address of a server that answers and accepts our credentials, found within seconds.

    Prefect's client would try for a minute, and without an address would start a server that ends with the command.

    Raises:
        ConfigurationError: there is no such server; the message names the setting to change.
        ServerAway: it does not answer now.
    """
    url = configured_server()
    if not url:
        raise ConfigurationError(
            "PREFECT_API_URL is not set: name the server, as in PREFECT_API_URL=http://127.0.0.1:4200/api "
            "for that of `faceid serve`"
        )
    from flows.prefect_health import why_out_of_reach

    if why := why_out_of_reach():
        raise ServerAway(
            f"PREFECT_API_URL: {why}; start the server and look at its log, or correct or unset PREFECT_API_URL"
        )
    return url
