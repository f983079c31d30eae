"""MkDocs hooks: pages that are made from other files when the site is built.

The API reference has one page per room, CONTRIBUTING.md and CHANGELOG.md are shown from the repository's root, and
every page of docs/design/ is in the navigation.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_PACKAGES = ("flows", "tasks", "faceid_core", "data_contracts")
_FROM_THE_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the design pages and the API reference to the navigation."""
    design = [f"design/{path.name}" for path in sorted((ROOT / "docs" / "design").glob("*.md"))]
    config.nav.append({"Design": design})
    config.nav.append({"API reference": [{name: _address(name)} for name in _rooms()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page with the docstring, modules and public names of each room."""
    for name in _rooms():
        content = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, _address(name), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Show a file of the repository's root, with links that hold within docs/."""
    source = _FROM_THE_ROOT.get(page.file.src_uri)
    if source is None:
        return markdown
    text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\]\(([A-Z]+\.md)", lambda link: f"]({link[1].lower()}", text)


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
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)
