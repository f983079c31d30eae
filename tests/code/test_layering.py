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

from flows.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_contracts", "faceid_core", "tasks", "flows")


def test_no_module_imports_itself_in_a_circle():
    # The contract `circles` compares siblings; this one also sees a module that imports its own package.
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # CycleError names a circle


def test_no_constant_of_a_module_is_set_twice():
    """The second value counts everywhere, also where the first one is meant: a rename or a merge does that unseen."""
    twice = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            names = [
                target.id
                for node in body
                if isinstance(node, ast.Assign | ast.AnnAssign)
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                if isinstance(target, ast.Name)
            ]
            twice += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(set(names)) if names.count(name) > 1]
    assert not twice


def loaded_by(code: str, libraries: set[str]) -> str:
    code = f"import sys\n{code}\nprint(sorted({libraries!r} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return printed.stdout.strip()


def test_planning_imports_no_model_library():
    code = "import faceid_core.plan.planning"
    assert loaded_by(code, {"torch", "prefect", "ray", "diffusers", "boto3"}) == "[]"


def test_asking_the_tables_loads_no_pandas():
    """Which takes half a second, in commands that answer in one."""
    assert loaded_by("import faceid_core.tables", {"pandas", "torch", "prefect", "ray", "deltalake"}) == "['deltalake']"


def test_no_help_page_loads_a_library_of_the_work():
    libraries = {"torch", "prefect", "ray", "diffusers", "boto3", "numpy", "pandas", "scipy", "pyarrow", "duckdb"}
    libraries |= {"deltalake", "cv2"}
    # Every page as its command prints it, below a group those of its commands; after each what it has loaded.
    code = (
        "from click import Group; from flows.cli import COMMANDS, cli\n"
        "def show(command, *path):\n"
        "    cli.main([*path, '--help'], standalone_mode=False)\n"
        f"    print('page of', *path, sorted({libraries!r} & set(sys.modules)))\n"
        "    for name, each in (command.commands.items() if isinstance(command, Group) else ()):\n"
        "        show(each, *path, name)\n"
        "for name in COMMANDS: show(cli.get_command(None, name), name)"
    )
    pages = [line for line in loaded_by(code, set()).splitlines() if line.startswith("page of ")]
    assert len(pages) > len(COMMANDS)
    assert [line for line in pages if not line.endswith(" []")] == []


def test_the_list_of_commands_loads_no_library_but_click():
    assert loaded_by("import flows.cli", {"pydantic", "numpy", "pyarrow", "rich"}) == "[]"


def test_nothing_unpickles():
    for room in PACKAGES:
        for file in (ROOT / room).rglob("*.py"):
            names = {
                node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            }
            assert not names & {"pickle", "cloudpickle", "read_pickle"}, file
            assert "torch.load" not in file.read_text(encoding="utf-8"), file
