"""MkDocs hooks: one page of the API reference for each room, made from the source tree when the site is built."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_PACKAGES = ("flows", "tasks", "faceid_core", "data_contracts")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the generated pages to the navigation."""
    pages = [{name: _address(name)} for name in _rooms()]
    config.nav.append({"API reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page with the room's docstring, modules and public names."""
    for name in _rooms():
        content = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, _address(name), content=content))
    return files


def _address(name: str) -> str:
    return f"api/{name}.md"


def _rooms() -> list[str]:
    """Packages, and the modules of faceid_core that stand beside its packages and have public names."""
    names = [name for name in _PACKAGES if name != "faceid_core"]
    for path in sorted((ROOT / "faceid_core").iterdir()):
        if (path / "__init__.py").exists() or (path.suffix == ".py" and _has_public_names(path)):
            names.append(f"faceid_core.{path.stem}")
    return names


def _has_public_names(path: Path) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(
        isinstance(node, kinds) and not node.name.startswith("_") for node in ast.parse(path.read_text()).body
    )
