"""What Ray has to offer a run: the doctor's check of the cluster."""

from __future__ import annotations

import ray

from faceid_core.config import NightlyConfig, cluster_address
from faceid_core.doctor.finding import Finding
from tasks.workers import gpus_of_a_worker, room_for, start_ray, threads_of_a_worker


def check_ray(config: NightlyConfig) -> tuple[list[Finding], int]:
    """Whether the configured workers find room; joins or starts Ray, and leaves it again.

    Returns:
        The findings, and how many workers there would be.

    Raises:
        ConfigurationError: no cluster answers at the configured address.
    """
    execution = config.execution
    start_ray(execution.ray_address, "doctor")
    try:
        total, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
        device, cpus = config.base_model.device, total.get("CPU", 0)
        threads = min(threads_of_a_worker(execution.threads(), device), max(1, cpus))
        room = room_for(total, threads, gpus_of_a_worker(device))
    finally:
        ray.shutdown()
    workers = execution.workers or max(1, room)
    address, setting = cluster_address(execution.ray_address)
    where = f"{address} by {setting}" if address else "started on this machine"
    has = f"{len(nodes)} node(s), {cpus:g} CPUs, {total.get('GPU', 0):g} GPUs"
    found = f"Ray {ray.__version__}, {where}: {has}; {workers} worker(s)"
    if workers > room:
        advice = f"there is room for {room}: lower execution.workers or execution.threads_per_worker"
        return [Finding("ray", "fail", found, advice)], workers
    if len(nodes) > 1 and not config.store.startswith("s3://"):
        return [
            Finding("ray", "fail", found, "a folder store is not shared by several nodes: use s3://")
        ], workers
    return [Finding("ray", "ok", found)], workers
