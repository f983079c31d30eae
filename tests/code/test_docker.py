"""The image: linted, without secrets, weights or root, and installed by steps that a test can follow."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pins(file: Path) -> dict[str, str]:
    return dict(
        line.split("==") for line in file.read_text().splitlines() if line and not line.startswith("#")
    )


def test_the_dockerfile_is_clean():
    tool = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool, "hadolint is part of the test dependencies: make setup"
    command = [tool, "--config", str(ROOT / ".hadolint.yaml"), str(DOCKER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_both_builds_pin_the_torch_that_the_tests_ran_with():
    """A build of another release would draw other pictures."""
    tested = _pins(ROOT / "constraints.txt")["torch"]
    builds = {name: _pins(DOCKER / f"constraints-{name}.txt")["torch"] for name in ("cpu", "gpu")}
    assert builds["cpu"] == f"{tested}+cpu"
    assert re.fullmatch(re.escape(tested) + r"\+cu\d+", builds["gpu"])


def test_the_image_is_not_root_and_leaves_whole_commands_to_others():
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert user and "0" not in user.groups()
    assert "HEALTHCHECK" in last and "healthcheck.py" in last
    # Prefect's worker passes its command as the container's arguments, and KubeRay passes a shell line.
    assert not re.search(r"^ENTRYPOINT", DOCKERFILE, re.MULTILINE)


def test_what_is_kept_at_home_stays_with_the_volume():
    """The identity secret above all: a store without its secret cannot be used."""
    home = re.search(r"^(?:ENV|   ) .*?HOME=(\S+)", DOCKERFILE, re.MULTILINE)
    folder = re.search(r"^WORKDIR (/var\S+)$", DOCKERFILE, re.MULTILINE)
    mounted = re.search(r"docker run .*-v \S+?:(\S+)", (ROOT / "infra" / "README.md").read_text())
    assert home and folder and mounted
    assert home[1] == folder[1] == mounted[1]
    assert "NVIDIA_VISIBLE_DEVICES" not in DOCKERFILE, "who starts a container says which GPUs it sees"


def test_neither_a_registry_nor_a_secret_is_written_into_it():
    for file in DOCKER.iterdir():
        text = re.sub(r"http://127\.0\.0\.1\S*", "", file.read_text())
        assert not re.search(r"https?://|index-url|find-links", text), file.name
    assert not re.search(r"^(ARG|ENV).*(SECRET|PASSWORD|TOKEN|AUTH)", DOCKERFILE, re.MULTILINE)


def test_the_builder_gets_what_is_installed_and_nothing_else():
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    assert "*" in lines
    assert allowed == packages | needed | {"constraints.txt", "pyproject.toml", "setup.py"}


def test_the_check_finds_weights_secrets_and_the_wrong_torch(tmp_path):
    check = _module("check")
    check.IMPORTS = ("torch",)
    assert check.problems("cpu", tmp_path, {"PATH": "/bin"}) == []
    (tmp_path / "shape_predictor_68_face_landmarks.dat").touch()
    with (tmp_path / "unet.safetensors").open("wb") as file:
        file.truncate(check.MOST_BYTES + 1)
    found = check.problems("gpu", tmp_path, {"FACEID_IDENTITY_SECRET": "00", "PATH": "/bin"})
    assert len(found) == 4
    for part in ("FACEID_IDENTITY_SECRET", "68_face", "unet.safetensors", "CUDA None"):
        assert sum(part in each for each in found) == 1, part


def test_the_health_check_asks_the_page_of_serve_and_nothing_of_other_commands():
    healthcheck = _module("healthcheck")
    assert healthcheck.address(["faceid", "run"], {}) == ""
    assert healthcheck.address(["faceid", "serve", "--port=4300"], {}) == "http://127.0.0.1:4300/api/health"
    configured = {"PREFECT_API_URL": "http://prefect:4200/api"}
    assert healthcheck.address(["tini", "faceid", "serve"], configured) == "http://prefect:4200/api/health"
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    page = f"http://127.0.0.1:{server.server_port}/"
    assert healthcheck.answers(page)
    thread.join()
    server.server_close()
    assert not healthcheck.answers(page)


@pytest.mark.exhaustive
def test_the_steps_of_the_image_install_a_faceid_that_runs(tmp_path):
    """In a folder that holds only what .dockerignore lets through, and an environment without this one's packages."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            path = ROOT / line[1:]
            (shutil.copytree if path.is_dir() else shutil.copy)(path, source / path.name)
    # The variables of the machine's own secrets are not those of a builder.
    ours = ("PYTHON", "FACEID", "PREFECT", "AWS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    clean["FACEID_REVISION"] = "0123456789ab"
    step = ["sh", "infra/docker/install.sh", "cpu", str(venv)]
    done = subprocess.run(step, cwd=source, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    answer = subprocess.run(
        [str(venv / "bin" / "faceid"), "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0 and "faceid" in answer.stdout
    revision = next(venv.rglob("faceid_core/revision.txt"))
    assert revision.read_text().strip() == "0123456789ab"
    assert not list(venv.rglob("shape_predictor_68*"))
