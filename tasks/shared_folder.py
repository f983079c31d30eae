"""A store in a folder that the nodes of a Ray cluster share: believed only when every node has read a probe file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from faceid_core.errors import ConfigurationError
from faceid_core.store.folder import folder_of

SCRATCH = "doctor"  # the store's place for what is removed at once
PROBE_SECONDS = 60.0  # for a node to start a process and read a file


def require_shared_folder(store: str, *, stated: bool) -> None:
    """Refuse a folder store that not every node of the cluster sees.

    Args:
        store: The store's address.
        stated: `execution.shared_store`.

    Raises:
        ConfigurationError: there are several nodes, and the folder is not stated to be shared, or a node does not see it.
    """
    if why := why_not_shared(store, stated=stated):
        raise ConfigurationError(why)


def why_not_shared(store: str, *, stated: bool) -> str:
    """Why the nodes of the present Ray session do not share this store; empty if they do."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if store.startswith("s3://") or len(nodes) <= 1:
        return ""
    if not stated:
        return (
            f"store {store} is a folder, but the Ray cluster has several nodes that cannot all reach it; use an "
            "s3:// store or one machine, or set execution.shared_store if it is on a file system that all nodes share"
        )
    blind = _nodes_that_see_no_probe(folder_of(store), nodes)
    if not blind:
        return ""
    return (
        f"execution.shared_store: a file that was written into {store} is not read back on {', '.join(blind)}; mount "
        "the same file system under this path on every node, for the user that runs Ray"
    )


def _nodes_that_see_no_probe(folder: Path, nodes: list[dict[str, Any]]) -> list[str]:
    folder = folder / SCRATCH
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe, text = folder / f"shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    probe.write_text(text, encoding="ascii")
    try:
        answers = {
            _read_and_answer.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(probe), text): node
            for node in nodes
        }
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PROBE_SECONDS)
        seen = {answers[answer]["NodeID"] for answer in ready if _answered(answer)}
        # What the nodes wrote is read here: sharing has two directions.
        seen = {number for number in seen if _reply(probe, number).is_file()}
    finally:
        for file in folder.glob(f"{probe.name}*"):
            file.unlink(missing_ok=True)
    return [node["NodeManagerAddress"] for node in nodes if node["NodeID"] not in seen]


def _reply(probe: Path, node: str) -> Path:
    return probe.with_name(f"{probe.name}-{node}")


def _answered(answer: Any) -> bool:
    try:
        return bool(ray.get(answer))
    except RayError:
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _read_and_answer(probe: str, text: str) -> bool:
    """Read the probe on a node, and write a file beside it with the node's name."""
    try:
        if Path(probe).read_text(encoding="ascii") != text:
            return False
        _reply(Path(probe), ray.get_runtime_context().get_node_id()).touch(mode=0o600)
    except OSError:
        return False
    return True
