"""The wheel: built from the tracked files, installed without its dependencies, used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.conftest import GRID

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300
REVISION = "0123456789ab"


def run(command: list, **options) -> str:
    """What a command prints; its output is in the message if it fails."""
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, **options
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project as a wheel, of tracked files only: what git does not know is no part of a release."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    built = {**os.environ, "FACEID_REVISION": REVISION}
    run([sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", out, source], env=built)
    (made,) = out.glob("faceid-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel, which sees this one's libraries and not this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    packages = Path(
        run([folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A path in a .pth file is searched, and the .pth files there, such as an editable install's, are not read.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def faceid(installed, tmp_path_factory):
    """Run the installed command in a folder of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "FACEID_IDENTITY_SECRET")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "OMP_NUM_THREADS": "1"}

    def call(*arguments) -> str:
        start = "from flows.cli import main; main()"
        return run([installed / "python", "-c", start, *arguments], cwd=folder, env=env)

    call.folder = folder
    return call


def test_the_wheel_holds_what_its_commands_use(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "infra/prefect/automations/failures.yaml",
        "data_contracts/runs.odcs.yaml",
        "faceid_core/evaluate/grids/miniature.yaml",
        "faceid_core/miniature/weights/models.lock",
        "faceid_core/report/templates/index.html",
        "faceid_core/report/templates/people.js",
        "faceid_core/report/vendor/datatables.min.js",
        "faceid_core/report/vendor/datatables-license.txt",
    ):
        assert name in names, name
    assert not [name for name in names if name.startswith("tests/") or "/checkpoints/" in name]


@pytest.mark.exhaustive
def test_a_small_run_outside_the_checkout(faceid):
    (faceid.folder / "grid.yaml").write_text(GRID)
    settings = {
        "identities": "miniature:held-out:2",
        "personalize": {"preset": "semantic-fidelity", "slots": 2, "method": {"steps": 3, "samples_per_step": 5}},
        "generate": {"grid": "grid.yaml", "seeds": 1, "steps": 2},
        "score": {"named_people": 0},
        "execution": {"executor": "inline", "threads_per_worker": 1},
    }
    (faceid.folder / "run.yaml").write_text(yaml.safe_dump(settings))
    printed = faceid("run", "--config", "run.yaml")
    assert "2 done" in printed
    rows = faceid("query", "select count(*) as people from identity_summary where identity_key is not null")
    assert rows.split() == ["people", "2"]
    assert f"(revision {REVISION})" in faceid("--version")
    assert str(ROOT) not in printed


def test_the_automations_are_in_the_wheel(installed):
    code = (
        "from flows.cli_automations import FILES, read_automations; "
        "print(FILES); print(len(list(read_automations((FILES,)))))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folder, count = run([installed / "python", "-c", code], cwd="/", env=env).split()
    assert str(ROOT) not in folder and int(count) >= 2
