"""The units of infra/systemd: what they promise of stopping, restarting and shutting in."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.helpers.units import UNITS, settings_of

TESTED = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)


@TESTED
def test_a_stop_reaches_the_main_process_alone_and_leaves_it_time(unit):
    """Otherwise runs would be cut off before they have written their outcome reports."""
    service = settings_of(unit)["Service"]
    assert service["KillMode"] == ["mixed"] and service["KillSignal"] == ["SIGTERM"]
    assert int(service["TimeoutStopSec"][0]) >= 120
    assert service["Restart"] == ["on-failure"]


def test_a_wrong_configuration_is_not_started_again():
    from faceid_core.outcomes import EXIT_CONFIGURATION

    (serve,) = [unit for unit in UNITS if "serve" in unit.stem]
    assert settings_of(serve)["Service"]["RestartPreventExitStatus"] == [str(EXIT_CONFIGURATION)]


@TESTED
def test_a_server_that_is_away_for_hours_is_waited_for(unit):
    assert settings_of(unit)["Unit"]["StartLimitIntervalSec"] == ["0"], "no number of starts is too many"


def test_the_unit_schedules_the_nightly_run():
    (serve,) = [unit for unit in UNITS if "serve" in unit.stem]
    words = shlex.split(settings_of(serve)["Service"]["ExecStart"][0])
    assert len(words[words.index("--cron") + 1].split()) == 5


@TESTED
def test_it_runs_as_nobody_special_and_sees_the_gpu(unit):
    service = settings_of(unit)["Service"]
    assert service["User"] == ["faceid"] and service["CapabilityBoundingSet"] == [""]
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelModules", "RestrictSUIDSGID"):
        assert service[name] == ["true"], name
    assert service["ProtectSystem"] == ["strict"]
    assert not {"PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "DevicePolicy"} & service.keys()
    home = dict(each.split("=", 1) for each in service["Environment"])["HOME"]
    assert home == service["WorkingDirectory"][0] == f"/var/lib/{service['StateDirectory'][0]}"


@TESTED
def test_no_secret_stands_in_it(unit):
    service = settings_of(unit)["Service"]
    assert "/etc/faceid/environment" in service["EnvironmentFile"]
    named = " ".join(service["Environment"]) + service["ExecStart"][0]
    assert not [word for word in ("SECRET", "PASSWORD", "AUTH", "KEY") if word in named]


def test_the_worker_asks_the_pool_of_the_deployments():
    import yaml

    (worker,) = [unit for unit in UNITS if "worker" in unit.stem]
    words = shlex.split(settings_of(worker)["Service"]["ExecStart"][0])
    deployments = yaml.safe_load((Path(__file__).parents[2] / "infra" / "prefect.yaml").read_text())[
        "deployments"
    ]
    assert {each["work_pool"]["name"] for each in deployments} == {words[words.index("--pool") + 1]}
