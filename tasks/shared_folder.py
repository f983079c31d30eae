"""A store in a folder that the nodes of a Ray cluster share: believed only where a node has read a probe file."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from faceid_core.errors import ConfigurationError
from faceid_core.private import FOLDER_MODE, write_private
from faceid_core.store.folder import folder_of

SCRATCH = "doctor"  # the store's place for what is removed at once
PROBE_SECONDS = 60.0  # for a node to start a process and read a file


@dataclass(frozen=True)
class Probe:
    """A file of random text in a folder store; it travels to the workers, each of which reads it as it starts.

    Attributes:
        store: The store's address.
        path: Of the file.
        text: In it.
    """

    store: str
    path: Path
    text: str

    @classmethod
    def write(cls, store: str) -> Probe:
        """Write a probe into a store's folder, which is made if it is not there."""
        folder = folder_of(store) / SCRATCH
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        probe = cls(store, folder / f"shared-{secrets.token_hex(8)}", secrets.token_hex(16))
        write_private(probe.path, probe.text.encode())
        return probe

    def is_read(self) -> bool:
        """Whether this machine reads the file."""
        try:
            return self.path.read_text(encoding="ascii") == self.text
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the file; what a file system that is away keeps is harmless."""
        with suppress(OSError):
            self.path.unlink()

    def not_read_on(self, addresses: list[str]) -> str:
        """The message about nodes on which the file is not read."""
        return (
            f"execution.shared_store: a file that was written into {self.store} is not read back on "
            f"{', '.join(addresses)}; mount the same file system under this path on every node, for the user that runs "
            "Ray"
        )


def probe_shared_folder(store: str, *, stated: bool, joined: bool) -> Probe | None:
    """Refuse a folder store that a node of the cluster does not see, or may not see once it joins.

    Args:
        store: The store's address.
        stated: `execution.shared_store`.
        joined: Whether the cluster was there before: nodes may join it at any time, so one node alone says nothing.

    Returns:
        A probe for workers to read as they start, to be removed with them; None where all are on this machine, or the
        store is no folder.

    Raises:
        ConfigurationError: the folder is not stated to be shared, or a node does not see it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if store.startswith("s3://") or (len(nodes) <= 1 and not joined):
        return None
    if not stated:
        raise ConfigurationError(
            f"store {store} is a folder, which not all nodes of a Ray cluster reach, those that join later included; use "
            "an s3:// store, unset execution.ray_address and RAY_ADDRESS to run on this machine alone, or set "
            "execution.shared_store if it is on a file system that all nodes share"
        )
    probe = Probe.write(store)
    try:
        if blind := _blind_nodes(probe, nodes):
            raise ConfigurationError(probe.not_read_on(blind))
    except BaseException:
        probe.remove()
        raise
    return probe


def why_not_shared(store: str, *, stated: bool, joined: bool) -> str:
    """Why the nodes of the present Ray session do not share this store; empty if they do. See `probe_shared_folder`."""
    try:
        if probe := probe_shared_folder(store, stated=stated, joined=joined):
            probe.remove()
    except ConfigurationError as error:
        return str(error)
    return ""


def _blind_nodes(probe: Probe, nodes: list[dict[str, Any]]) -> list[str]:
    """The addresses of the nodes on which the probe is not read, or that do not answer in time."""
    try:
        asked = {
            _read_and_reply.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(probe): node
            for node in nodes
        }
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
        seen = {asked[answer]["NodeID"] for answer in ready if _answered(answer)}
        # What the nodes wrote is read here: sharing has two directions.
        seen = {node for node in seen if _reply(probe.path, node).is_file()}
    finally:
        for node in nodes:
            _reply(probe.path, node["NodeID"]).unlink(missing_ok=True)
    return [node["NodeManagerAddress"] for node in nodes if node["NodeID"] not in seen]


def _reply(probe: Path, node: str) -> Path:
    return probe.with_name(f"{probe.name}-{node}")


def _answered(answer: Any) -> bool:
    try:
        return bool(ray.get(answer))
    except RayError:
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _read_and_reply(probe: Probe) -> bool:
    """Read the probe on a node, and write a file beside it with the node's name."""
    if not probe.is_read():
        return False
    try:
        _reply(probe.path, ray.get_runtime_context().get_node_id()).touch(mode=0o600)
    except OSError:
        return False
    return True
