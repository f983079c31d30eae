"""A Ray cluster that was not started, or that something else answers for: refused in time, by the setting's name."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from ray.exceptions import AuthenticationError

from faceid_core.config import cluster_address
from faceid_core.errors import ConfigurationError
from faceid_core.nightly import executor_on_demand
from flows.local_network import bind_ray_to_loopback
from tasks import ray_cluster
from tasks.ray_cluster import start_ray


@pytest.fixture
def closed_port():
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent():
    """A port that takes connections and says nothing, as another service's may."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_environments_address_counts_where_none_is_configured(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address("") == ("", "")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address("") == ("10.0.0.1:6379", "RAY_ADDRESS (in the environment)")
    assert cluster_address("auto") == ("auto", "execution.ray_address")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address("") == ("", "")


@pytest.mark.parametrize("address", ["", "local"])
def test_a_ray_of_this_machine_stays_on_the_loopback_address(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    started, joined = {}, {}
    bind_ray_to_loopback(started, "")
    bind_ray_to_loopback(joined, "10.0.0.1:6379")
    assert started == {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} and joined == {}


@pytest.mark.parametrize("setting", ["execution.ray_address", "RAY_ADDRESS"])
def test_an_address_without_a_cluster_is_refused_in_time_by_its_settings_name(
    closed_port, monkeypatch, setting
):
    monkeypatch.setattr(ray_cluster, "REACH_SECONDS", 1.5)
    configured = closed_port if setting == "execution.ray_address" else ""
    monkeypatch.setenv("RAY_ADDRESS", closed_port)
    with pytest.raises(ConfigurationError, match=f"^{setting}.*{closed_port}.*ray start --head"):
        start_ray(configured, "test")


def test_rays_client_is_refused_with_the_way_that_works():
    """Ray's client has no streaming actor methods, and says so only once the models are loaded."""
    with pytest.raises(ConfigurationError, match=r"^execution\.ray_address.*streaming.*ray job submit"):
        start_ray("ray://head:10001", "test")


@pytest.mark.parametrize("address", ["head", "head:port", "10.0.0.1:99999"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ConfigurationError, match="give host:port"):
        start_ray(address, "test")


def test_a_service_that_is_no_ray_is_given_up(silent, monkeypatch):
    monkeypatch.setattr(ray_cluster, "JOIN_SECONDS", 0.5)
    monkeypatch.setattr(ray_cluster, "_init_ray", lambda *_: time.sleep(20))  # Ray itself tries for minutes
    with pytest.raises(ConfigurationError, match="no answer in"):
        start_ray(silent, "test")


def test_a_cluster_that_asks_for_a_token_says_where_it_belongs(silent, monkeypatch):
    """Ray hides it behind a connection that failed, as if no cluster were there."""

    def refuse(*_):
        raise ConnectionError("Failed to connect") from AuthenticationError("InvalidAuthToken")

    monkeypatch.setattr(ray_cluster, "_init_ray", refuse)
    with pytest.raises(
        ConfigurationError, match=r"asks for its token; set RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN"
    ):
        start_ray(silent, "test")


def test_a_refusal_is_not_waited_for_twice():
    asked = []

    def refuse():
        asked.append(threading.current_thread())
        raise ConfigurationError("no cluster answers")

    with executor_on_demand(refuse) as get:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="no cluster answers"):
                get()
    assert len(asked) == 1
