"""Addresses of this machine are reached directly, whatever proxy the environment names for everything else."""

from __future__ import annotations

from collections.abc import MutableMapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def reach_loopback_directly(environment: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to those that no proxy is asked for, if a proxy is set at all.

    A run's own Prefect server and a store on this machine would otherwise be looked for at the proxy. Prefect, boto3
    and delta-rs read the variable, in one spelling or the other; child processes inherit it.

    Args:
        environment: `os.environ`.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return
    spellings = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    listed = [part.strip() for text in spellings for part in text.split(",") if part.strip()]
    if "*" in listed:
        return
    direct = ",".join(dict.fromkeys([*listed, *LOOPBACK]))
    environment["no_proxy"] = environment["NO_PROXY"] = direct
