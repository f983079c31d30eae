"""Addresses of this machine: no proxy is asked for them, Ray listens on loopback, and how a server here is reached."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import MutableMapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def exempt_loopback_from_proxy(environment: MutableMapping[str, str], *hosts: str) -> None:
    """Add the loopback addresses to `no_proxy`, if a proxy is set at all.

    Otherwise requests to a run's own Prefect server and to a store on this machine would go to the proxy. Prefect,
    boto3 and delta-rs read the variable, in one spelling or the other; child processes inherit it.

    Args:
        environment: `os.environ`.
        hosts: Further names or addresses of this machine.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return
    spellings = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    listed = [part.strip() for text in spellings for part in text.split(",") if part.strip()]
    if "*" in listed:
        return
    direct = ",".join(dict.fromkeys([*listed, *LOOPBACK, *hosts]))
    environment["no_proxy"] = environment["NO_PROXY"] = direct


def bind_ray_to_loopback(environment: MutableMapping[str, str], ray_address: str) -> None:
    """Have a Ray that is started on this machine listen on the loopback address; call this before importing Ray.

    A process that reaches Ray's ports can run code here. Ray listens on loopback by default on other systems than
    Linux; this setting asks for it there.

    Args:
        environment: `os.environ`.
        ray_address: `execution.ray_address`.
    """
    from faceid_core.config import cluster_address  # heavy: `faceid --help` must not load the configuration

    if not any(cluster_address(ray_address)):
        environment.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def reachable_host(host: str) -> str:
    """The host by which this machine reaches its own server; loopback for one that listens on all addresses.

    IPv6 has no brackets, as a list of hosts and httpx expect.

    Args:
        host: Where the server listens: a name or an address.

    Raises:
        OSError: there is no such host.
    """
    family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    if ipaddress.ip_address(address[0]).is_unspecified:
        return "::1" if family == socket.AF_INET6 else "127.0.0.1"
    return host


def http_origin(host: str, port: int) -> str:
    """The origin `http://host:port`, with the brackets that IPv6 needs."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
