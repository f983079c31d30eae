"""How large a worker is on the nodes of a cluster, and how many there is room for; without Ray."""

from __future__ import annotations

import os

import pytest

from faceid_core.config import parse_config
from faceid_core.cpus import available_cpus
from faceid_core.errors import ConfigurationError
from tasks import placement
from tasks.placement import NodeShape, Request, Share, capacity, node_shapes, nodes_that_may_come

HEAD = NodeShape(0, 0, there=1)


def test_a_worker_with_a_gpu_is_sized_by_the_nodes_that_have_one():
    """A large head without a GPU says nothing about a worker that needs one."""
    shapes = [NodeShape(16, 0, there=1), NodeShape(2, 1, there=2)]
    request = Request("cuda", 0, 0)
    assert request.share(shapes) == Share(1, 1)
    assert capacity(shapes, request.share(shapes)) == 2
    assert capacity(shapes, request.share_without_gpu(shapes)) == 20, "the head takes faces and scores"


def test_nodes_that_an_autoscaler_may_add_count():
    shapes = [HEAD, NodeShape(8, 1, more=4)]
    share = Request("auto", 0, 0).share(shapes)
    assert share == Share(4, 1), "by auto, too: a GPU will come"
    assert capacity(shapes, share) == 4 and capacity(shapes, share, present=True) == 0


def test_a_node_that_is_left_out_has_no_room_and_still_takes_a_place_of_the_autoscaler(monkeypatch):
    nodes = [
        {"NodeID": name, "Alive": name != "gone", "Resources": {"CPU": 4.0}} for name in ("a", "b", "gone")
    ]
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
    may_come = nodes_that_may_come(["3 x 4 CPU"])
    assert node_shapes(may_come) == [NodeShape(4, 0, there=2, more=1)]
    assert node_shapes(may_come, without={"a"}) == [NodeShape(4, 0, there=1, more=1)]
    assert node_shapes(without={"a", "b"}) == [NodeShape(4, 0, there=0)]


def test_the_configuration_names_nodes_that_may_come():
    texts = ("8 x 6 CPU, 1 GPU", "20 x 4 CPU")
    execution = parse_config({"execution": {"autoscaler_nodes": texts}}).execution
    shapes = nodes_that_may_come(execution.autoscaler_nodes)
    assert shapes == [NodeShape(6, 1, more=8), NodeShape(4, 0, more=20)]
    with pytest.raises(ConfigurationError, match="autoscaler_nodes"):
        parse_config({"execution": {"autoscaler_nodes": ["8 of 6 CPU"]}})


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "each"),
    [(64, 8, 1.0, 4), (8, 4, 1.0, 1), (2, 4, 1.0, 0.5), (0, 1, 1.0, 0), (16, 1, 0.5, 4), (16, 4, 2.0, 4)],
)
def test_the_cpus_of_a_node_are_divided_among_its_workers_and_half_is_left(cpus, gpus, asked, each):
    shape = NodeShape(cpus, gpus, there=1)
    share = Request("cuda", 0, 0, asked).share([shape])
    assert share == Share(each, asked) and share.threads >= 1
    assert capacity([shape], share) == int(gpus / asked), "every GPU has its workers"


@pytest.mark.parametrize(
    ("asked", "free", "count"),
    [
        (0.6, [1.0, 1.0], 2),  # 2 / 0.6 is more than three, of which the third would lie on both
        (0.6, [1.0, 0.2], 1),  # 1.2 in all
        (0.6, [0.6, 0.6], 2),
        (0.6, [0.4, 0.4], 0),
        (0.5, [0.5, 1.0], 3),
        (1 / 3, [1.0], 3),
        (1.0, [0.6, 0.6], 0),  # a whole GPU is one that no other worker uses
        (2.0, [1.0, 1.0, 1.0], 1),
        (2.0, [1.0, 0.5, 0.5], 0),
    ],
)
def test_a_fraction_of_a_gpu_lies_on_one_gpu(asked, free, count):
    assert Share(1, asked).fit(16, free) == count


def test_the_room_of_a_node_counts_each_gpu_by_itself():
    shape = NodeShape(8, 2, there=1)
    share = Request("cuda", 0, 0, 0.6).share([shape])
    assert capacity([shape], share) == 2, "not three"
    assert share == Share(2, 0.6), "half of a GPU's part of the CPUs, not a third's"


def test_threads_that_are_asked_for_are_an_upper_bound():
    assert Request("cpu", 5, 0).share([NodeShape(3, 0, there=2)]) == Share(3), "it would fit nowhere"
    assert Request("cpu", 2, 0).share([NodeShape(3, 0, there=2)]) == Share(2)
    assert Request("cuda", 2, 0).share([NodeShape(64, 8, there=1)]) == Share(2, 1)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([(8, 1)], 0, 8),
        ([(16, 1), (2, 2)], 0, 2),  # with 16 the small nodes would be idle
        ([(64, 2), (1, 1)], 0, 64),  # with 1 there would be 129 copies of the models
        ([(3, 2)], 0, 3),
        ([(6, 1), (4, 1)], 0, 3),  # with 6 or 4 too many are idle, and 1 would be ten copies
        ([(12, 1), (8, 1)], 0, 6),
        ([(8, 1)], 3, 2),
        ([(4, 2)], 2, 4),
        ([(4, 2)], 3, 2),
        ([(2, 1)], 3, 1),  # more workers than CPUs are refused by the room, not by a worker of no CPU
    ],
)
def test_on_cpus_a_worker_takes_the_most_with_which_the_cluster_is_used(nodes, workers, cpus):
    shapes = [NodeShape(size, 0, there=count) for size, count in nodes]
    assert Request("cpu", 0, workers).share(shapes) == Share(cpus)


def test_a_cluster_without_any_node_for_workers_is_asked_all_the_same():
    """The nodes of an autoscaler that publishes nothing may still come."""
    assert Request("cpu", 0, 0).share([HEAD]) == Share(1)
    assert Request("cuda", 0, 0).share([HEAD]) == Share(1, 1)
    assert Request("auto", 0, 0).share([HEAD]) == Share(1)


@pytest.fixture
def cgroups(tmp_path):
    """A machine's control groups: (their folder, the file that says which this process is in)."""
    membership = tmp_path / "cgroup"
    membership.write_text("0::/pods/one\n")
    (tmp_path / "groups" / "pods" / "one").mkdir(parents=True)
    return tmp_path / "groups", membership


def test_a_container_without_a_limit_has_the_cpus_that_it_may_run_on(cgroups):
    assert available_cpus(*cgroups) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("where", ["", "pods", "pods/one"])
@pytest.mark.parametrize(("text", "cpus"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_a_limit_of_any_group_above_counts(cgroups, where, text, cpus):
    (cgroups[0] / where / "cpu.max").write_text(text + "\n")
    assert available_cpus(*cgroups) == (cpus or len(os.sched_getaffinity(0)))


def test_the_first_version_of_control_groups_is_read_too(cgroups):
    folder, membership = cgroups
    membership.write_text("4:cpu,cpuacct:/one\n3:memory:/one\n")
    (folder / "cpu" / "one").mkdir(parents=True)
    (folder / "cpu" / "one" / "cpu.cfs_quota_us").write_text("100000\n")
    (folder / "cpu" / "one" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(folder, membership) == 1
