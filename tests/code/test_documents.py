"""The pages name files and names that exist, and the README can be read in two minutes."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from faceid_core import __version__
from faceid_core.config.parse import parse_config
from flows.cli import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGES = ("flows", "tasks", "faceid_core", "data_contracts")
README_WORDS = 950

_ROW = re.compile(r"^\| (?P<question>[^|]+\?) \| `(?P<path>[^`|]+)` \| (?P<names>[^|]+) \|$", re.MULTILINE)
_STEP = re.compile(r"^\d+\. `(?P<path>[^`]+)` – (?P<sentence>.+)$", re.MULTILINE)
_QUESTIONS = (
    "Where is the attention loss?",
    "Where is a stage key made?",
    "What happens to a rejected photo?",
    "How is a worker's death handled?",
    "Where is a metric added?",
)


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a module defines at its top level, and `Class.name` of what its classes define."""
    names = set()
    for node in tree.body:
        for name, inner in _definitions(node):
            names.add(name)
            names |= {f"{name}.{member}" for child in inner for member, _ in _definitions(child)}
    return names


def _definitions(node: ast.stmt) -> Iterator[tuple[str, list[ast.stmt]]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name, []
    elif isinstance(node, ast.ClassDef):
        yield node.name, node.body
    elif isinstance(node, ast.Assign):
        yield from ((target.id, []) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, []


def _require(path: str, names: list[str]) -> None:
    assert (ROOT / path).is_file(), f"{path} does not exist"
    missing = set(names) - defined_names(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert not missing, f"{path} does not define {', '.join(sorted(missing))}"


def test_readme_is_short():
    words = len((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words <= README_WORDS, f"README.md has {words} words"


def _answers() -> dict[str, tuple[str, list[str]]]:
    rows = _ROW.finditer((DOCS / "finding.md").read_text(encoding="utf-8"))
    return {row["question"]: (row["path"], re.findall(r"`([^`]+)`", row["names"])) for row in rows}


def test_every_question_has_an_answer():
    assert set(_QUESTIONS) <= set(_answers())


@pytest.mark.parametrize("question", _answers())
def test_answers_name_one_file_and_what_stands_in_it(question: str):
    path, names = _answers()[question]
    assert names
    _require(path, names)


def _walks() -> dict[str, list[tuple[str, str]]]:
    sections = re.split(r"^## ", (DOCS / "walks.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0]: [(m["path"], m["sentence"]) for m in _STEP.finditer(section)]
        for section in sections
    }


def test_there_are_three_walks():
    assert len(_walks()) == 3


@pytest.mark.parametrize("walk", _walks())
def test_walks_pass_each_file_once(walk: str):
    steps = _walks()[walk]
    paths = [path for path, _ in steps]
    assert len(paths) >= 5
    assert len(set(paths)) == len(paths), sorted({path for path in paths if paths.count(path) > 1})
    for path, sentence in steps:
        first = re.match(r"`([A-Za-z_][\w.]*)`", sentence)
        _require(path, [first[1]] if first else [])


def test_the_picture_of_the_architecture_is_current():
    drawn = subprocess.run(
        [sys.executable, DOCS / "tools" / "draw_architecture.py", "--check"], capture_output=True, text=True
    )
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr


def test_pages_use_the_nouns_of_the_glossary():
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
        DOCS.glob("*.md")
    )
    words = re.compile(r"\b(whoever|nobody|everybody|anew)\b", re.IGNORECASE)
    found = [
        f"{page.relative_to(ROOT)}: {line.strip()[:80]}"
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if words.search(line) and page.name != "glossary.md"
    ]
    assert not found, "\n".join(found)


def test_the_changelog_begins_with_the_version_of_the_code():
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == __version__


def _pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def test_configurations_in_pages_are_valid():
    read = 0
    for page in _pages():
        for block in re.findall(
            r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            if "prompts:" not in block:  # a grid
                parse_config(yaml.safe_load(block), source=str(page.relative_to(ROOT)))
                read += 1
    assert read >= 5


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Lines of code blocks that call `faceid`, as words; with the page that has them."""
    for page in _pages():
        for block in re.findall(
            r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            for line in block.replace("\\\n", " ").splitlines():
                for call in re.split(r";|&&|\|", line) if '"' not in line else [line]:
                    if call.strip().startswith("faceid "):
                        yield page.name, shlex.split(call, comments=True)[1:]


def test_commands_in_pages_exist_with_their_options():
    wrong, read = [], 0
    for page, words in _commands():
        command, context = cli, click.Context(cli)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            if found is None:
                wrong.append(f"{page}: there is no command {words[0]}")
                break
            command, words = found, words[1:]
        else:
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            known |= set(command.get_help_option_names(context))
            used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            wrong += [f"{page}: faceid {command.name} has no {name}" for name in sorted(used - known)]
            read += 1
    assert not wrong, "\n".join(wrong)
    assert read >= 30


def test_docstrings_describe_arguments_that_exist():
    """The API reference lists `Args:`; a name there that is no parameter misleads its reader."""
    wrong = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for function, described in _described_arguments(ast.parse(path.read_text(encoding="utf-8"))):
                unknown = described - _parameters(function)
                where = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
                wrong += [f"{where}: {name}" for name in sorted(unknown)]
    assert not wrong, "\n".join(wrong)


def _described_arguments(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, set[str]]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        args = re.search(r"^Args:\n((?:    .*\n|\n)*)", (ast.get_docstring(node) or "") + "\n", re.MULTILINE)
        if args:
            names = re.findall(r"^    (\*{0,2}\w[\w ]*(?:, \*{0,2}\w+)*):", args[1], re.MULTILINE)
            yield node, {name.strip(" *") for group in names for name in group.split(",")}


def _parameters(function: ast.FunctionDef) -> set[str]:
    spec = function.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return {argument.arg for argument in every if argument is not None}
