"""Imports point one way, and light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "data_contracts": set(),
    "faceid_core": {"data_contracts"},
    "tasks": {"faceid_core", "data_contracts"},
    "flows": {"tasks", "faceid_core", "data_contracts"},
}


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_one_way(room):
    forbidden = (set(ALLOWED) | {"tests"}) - ALLOWED[room] - {room}
    if room in ("data_contracts", "faceid_core"):
        forbidden |= {"prefect", "ray"}
    for file in (ROOT / room).rglob("*.py"):
        assert not imports_of(file) & forbidden, file.relative_to(ROOT)


@pytest.mark.parametrize(
    "module",
    [
        "flows.cli",
        "flows.cli_run",
        "flows.cli_study",
        "flows.cli_keep",
        "flows.options",
        "faceid_core.plan.planning",
    ],
)
def test_help_and_planning_import_no_model_library(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'prefect', 'ray', 'diffusers', 'boto3'}} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_nothing_unpickles():
    for room in ALLOWED:
        for file in (ROOT / room).rglob("*.py"):
            names = {
                node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            }
            assert not names & {"pickle", "cloudpickle", "read_pickle"}, file
            assert "torch.load" not in file.read_text(encoding="utf-8"), file
