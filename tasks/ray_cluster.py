"""The Ray session of this process: start or join it, and the doctor's check of it."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError

from faceid_core.config import NightlyConfig, cluster_address
from faceid_core.cpus import available_cpus
from faceid_core.doctor.finding import Finding
from faceid_core.errors import ConfigurationError
from tasks.placement import Request, capacity, described, grows, node_shapes, nodes_that_may_come
from tasks.shared_folder import why_not_shared

OBJECT_STORE_BYTES = 200_000_000  # only names and digests pass through Ray
REACH_SECONDS = 20.0  # for a cluster's head to take a connection; one that has just been started needs some
JOIN_SECONDS = 60.0  # for a head that takes connections to let this process in
LOCAL_START_SECONDS = 180.0  # for Ray to start on a machine that is busy
_POLL_SECONDS = 1.0


def start_ray(
    configured: str, run_id: str, *, niceness: int | None = None, metrics_port: int | None = None
) -> threading.Event:
    """Join the cluster of `cluster_address`, or start Ray on this machine.

    Args:
        configured: `execution.ray_address`.
        run_id: Names the namespace.
        niceness: Of the workers of a Ray that is started here, None leaves Ray's own; those of a cluster have the
            cluster's.
        metrics_port: Of the metrics of a Ray that is started here; None takes a free one.

    Returns:
        An event for the caller to set when Ray is no longer needed. Until then the thread that started Ray stays:
        Linux kills a local Ray's processes with the thread that started them, and the caller's own may end before.

    Raises:
        ConfigurationError: no cluster answers there in time, or Ray does not start.
    """
    address, setting = cluster_address(configured)
    if address:
        _require_head(address, setting)
    ended = threading.Event()
    answer: queue.Queue[BaseException | None] = queue.Queue()

    def start_and_stay() -> None:
        try:
            with _without_message("SIGTERM handler is not set"):  # the command has its own handler
                _init_ray(address, run_id, niceness, metrics_port)
        except BaseException as error:
            answer.put(error)
            return
        answer.put(None)
        ended.wait()

    threading.Thread(target=start_and_stay, daemon=True, name="ray").start()
    seconds = JOIN_SECONDS if address else LOCAL_START_SECONDS
    try:
        error = answer.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError(f"no answer in {seconds:.0f} s")
    if error is None:
        return ended
    if not isinstance(error, (ConnectionError, ValueError, RuntimeError, OSError, AuthenticationError)):
        raise error
    if address:
        raise _no_cluster(address, setting, error) from error
    raise ConfigurationError(
        f"Ray does not start on this machine ({error}); its logs are in /tmp/ray/session_latest/logs. "
        "Set execution.executor: inline to do without it"
    ) from error


def _require_head(address: str, setting: str) -> None:
    """Try to connect to a cluster's head, because Ray itself tries for minutes before it reports a failure.

    Raises:
        ConfigurationError: nothing takes a connection there.
    """
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"{setting}: {address!r} is for Ray's client, which has no streaming actor methods, so it cannot drive a "
            "run. Run it on a node of the cluster, where the address is auto, or as a Ray job: "
            "ray job submit --address http://HEAD:8265 -- faceid run --config run.yaml"
        )
    if address == "auto":  # Ray finds a cluster on this machine by itself, or fails at once
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ConfigurationError(f"{setting}: {address!r} is no address of a Ray cluster; give host:port")
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            with socket.create_connection((host, port), timeout=min(5.0, left)):
                return
        except OSError as error:
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise _no_cluster(address, setting, error) from error
        time.sleep(_POLL_SECONDS)


def _asks_for_token(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, AuthenticationError):
            return True
        error = error.__cause__
    return False


def _no_cluster(address: str, setting: str, error: BaseException) -> ConfigurationError:
    if _asks_for_token(error):
        return ConfigurationError(
            f"{setting}: the Ray cluster at {address!r} asks for its token; set RAY_AUTH_MODE=token, and put the token "
            "that its nodes have into RAY_AUTH_TOKEN or ~/.ray/auth_token (mode 600). On a node of the cluster the "
            "address auto takes that file by itself"
        )
    return ConfigurationError(
        f"{setting}: no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`, correct the "
        "address, or unset both execution.ray_address and RAY_ADDRESS to start Ray on this machine"
    )


@contextmanager
def _without_message(text: str) -> Generator[None]:
    """Keep one of Ray's messages out of its log."""

    def others(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    ray_log = logging.getLogger("ray._private.worker")
    ray_log.addFilter(others)
    try:
        yield
    finally:
        ray_log.removeFilter(others)


def _init_ray(address: str, run_id: str, niceness: int | None, metrics_port: int | None) -> None:
    common: dict[str, Any] = {
        "namespace": f"faceid-{run_id}",
        "log_to_driver": False,
        "configure_logging": False,
    }
    if address:
        ray.init(address=address, **common)
        return
    local: dict[str, Any] = {
        "num_cpus": available_cpus(),
        "_system_config": {} if niceness is None else {"worker_niceness": niceness},
        "include_dashboard": False,
        "_metrics_export_port": metrics_port,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    # "local": without an address Ray would join the cluster that was last started on this machine.
    ray.init(address="local", **local, **common)


def check_ray(config: NightlyConfig) -> tuple[list[Finding], int]:
    """Check for the doctor whether the configured workers fit into the cluster; joins or starts Ray, and leaves it.

    Returns:
        The findings, and how many workers a run would have.

    Raises:
        ConfigurationError: no cluster answers at the configured address.
    """
    execution = config.execution
    request = Request(
        config.base_model.device, execution.threads_per_worker, execution.workers, execution.gpus_per_worker
    )
    address, setting = cluster_address(execution.ray_address)
    start_ray(execution.ray_address, "doctor", niceness=execution.niceness)
    try:
        shapes = node_shapes(nodes_that_may_come(execution.autoscaler_nodes))
        not_shared = why_not_shared(
            config.store, stated=execution.shared_store, joined=bool(address)
        )
    finally:
        ray.shutdown()
    share = request.share(shapes)
    fitting = capacity(shapes, share)
    workers = execution.workers or max(1, fitting)
    where = f"{address} by {setting}" if address else "started on this machine"
    found = f"Ray {ray.__version__}, {where}: {described(shapes)}; {workers} worker(s), each with {share}"
    if workers > fitting:
        advice = f"there is room for {fitting}: lower execution.workers or execution.threads_per_worker"
        waits = bool(address) and not grows(shapes)  # nodes may come
        return [Finding("ray", "warn" if waits else "fail", found, advice)], workers
    if not_shared:
        return [Finding("ray", "fail", found, not_shared)], workers
    return [Finding("ray", "ok", found)], workers
