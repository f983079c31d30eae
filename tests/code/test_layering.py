"""No circle among modules, light commands stay light, and nothing unpickles.

Which room may import which stands in pyproject.toml, and `lint-imports` checks it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_contracts", "faceid_core", "tasks", "flows")


def test_no_module_imports_itself_in_a_circle():
    # The contract `circles` compares siblings; this one also sees a module that imports its own package.
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # CycleError names a circle


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


def test_the_list_of_commands_loads_no_library_but_click():
    code = "import sys, flows.cli; print(sorted({'pydantic', 'numpy', 'pyarrow', 'rich'} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_nothing_unpickles():
    for room in PACKAGES:
        for file in (ROOT / room).rglob("*.py"):
            names = {
                node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            }
            assert not names & {"pickle", "cloudpickle", "read_pickle"}, file
            assert "torch.load" not in file.read_text(encoding="utf-8"), file
