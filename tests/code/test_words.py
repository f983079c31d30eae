"""Names, configuration keys, columns, templates and messages use the glossary's terms.

The third column of the table in docs/glossary.md lists the words that they do not use. A word matches a whole part of a
snake_case or CamelCase name, or a whole word of a text; `a_b` matches consecutive parts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from faceid_core.config import NightlyConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_contracts", "faceid_core", "tasks", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Figures keep the names of the tables' version 1 in the code that computes and shows them.
NAMES_OF_VERSION_1 = {
    "concepts_obeyed",
    "concepts_obeyed_low",
    "concepts_obeyed_high",
    "single_concepts_obeyed",
    *(f"{category}_obeyed" for category in ("scene", "attribute", "action", "clothing", "pair", "mixed")),
}
# "night" is a scene of the miniature, and "at night" a phrase of its captions: prompts and shipped weights hold them.
MINIATURE_WORDS = {
    "night": ("faceid_core/miniature/", "faceid_core/miniature_training/", "faceid_core/evaluate/grids/")
}
# A word with another meaning: (file, word) -> the meaning.
OTHER_MEANINGS = {
    ("faceid_core/report/svg.py", "tick"): "a mark of an axis",
    ("faceid_core/studies/figure.py", "tick"): "a mark of an axis",
    ("faceid_core/tables/files.py", "tell"): "the method of Python's files",
    ("faceid_core/store/s3_advice.py", "account"): "AWS's error code AccountProblem",
    # Names of columns are put together from the concept and `_obeyed`.
    ("faceid_core/evaluate/summary.py", "obeyed"): "part of a column that keeps its name",
    ("faceid_core/studies/page.py", "obeyed"): "part of a column that keeps its name",
    ("faceid_core/studies/rows.py", "obeyed"): "part of a column that keeps its name",
    ("flows/display.py", "journal"): "a variable that systemd sets",
    # A migration reads what the version before wrote.
    ("faceid_core/upkeep/migrate.py", "start_penalty"): "a key of version 0.1",
    ("faceid_core/upkeep/migrate.py", "journal"): "a folder of version 0.1",
}
# Ordinary English in a sentence ("a run starts", "ahead of"), but no names.
ONLY_IN_NAMES = {"starts", "ahead", "course"}
HELP_DECORATORS = {"command", "group", "flow"}
PRONOUNS = re.compile(r"\b(whoever|nobody|everybody|anew)\b", re.IGNORECASE)
PROSE = (".py", ".md", ".html", ".yaml", ".yml", ".toml", ".css", ".sh", "Makefile")


def parts(text: str) -> list[str]:
    """The lower-case parts of a name or a text: of snake_case, CamelCase, and of words."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)]


def glossary_terms() -> list[list[str]]:
    """The words that the glossary tells not to use, each as its parts."""
    rows = re.findall(r"^\|(.+)\|\s*$", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert [cell.lower() for cell in cells[0]] == ["term", "meaning (source)", "do not use"]
    terms = [parts(word) for row in cells[2:] for word in row[2].split(",") if word.strip()]
    assert len(terms) > 20 and ["night"] in terms
    return terms


@pytest.fixture(scope="module")
def terms() -> list[list[str]]:
    return glossary_terms()


def in_sentences(terms: list[list[str]]) -> list[list[str]]:
    return [term for term in terms if term[0] not in ONLY_IN_NAMES]


def used(text: str, terms: list[list[str]], file: str = "") -> list[str]:
    """The terms that a name or a text uses, columns and other meanings left out."""
    words = [word for word in re.findall(r"\w+", text) if word not in NAMES_OF_VERSION_1]
    given = parts(" ".join(words))
    found = [
        "_".join(term)
        for term in terms
        if any(given[at : at + len(term)] == term for at in range(len(given) - len(term) + 1))
    ]
    return [
        term
        for term in found
        if not file.startswith(MINIATURE_WORDS.get(term, ())) and (file, term) not in OTHER_MEANINGS
    ]


def public_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each public class, function, argument, constant and field of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not is_private(
            node.name
        ):
            yield node.lineno, node.name
            if not isinstance(node, ast.ClassDef):
                arguments = node.args
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    yield argument.lineno, argument.arg
        if isinstance(node, ast.Module) or (isinstance(node, ast.ClassDef) and not is_private(node.name)):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
                for target in targets:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name) and not is_private(name.id):
                            yield name.lineno, name.id


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_help_decorator(node: ast.expr) -> bool:
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "attr", getattr(node, "id", "")) in HELP_DECORATORS


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a module; of docstrings only those that a command or a flow shows as its help."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            is_help = any(is_help_decorator(each) for each in getattr(node, "decorator_list", []))
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and not is_help:
                docstrings.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_names_use_the_glossary(terms):
    wrong = []
    for path in SOURCES:
        wrong += [f"{relative(path)}: the module's name uses {term}" for term in used(path.stem, terms)]
        for line, name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            wrong += [
                f"{relative(path)}:{line}: {name} uses {term}" for term in used(name, terms, relative(path))
            ]
    assert not wrong, "\n".join(wrong)


def test_messages_use_the_glossary(terms):
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, text in messages(tree):
            wrong += [
                f"{relative(path)}:{line}: {text[:70]!r} uses {term}"
                for term in used(text, in_sentences(terms), relative(path))
            ]
    assert not wrong, "\n".join(wrong)


def test_configuration_keys_and_columns_use_the_glossary(terms):
    wrong = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            for key, value in node.get("properties", {}).items():
                wrong.extend(f"configuration key {key} uses {term}" for term in used(key, terms))
                about = value.get("description", "") if isinstance(value, dict) else ""
                wrong.extend(
                    f"the description of {key} uses {term}" for term in used(about, in_sentences(terms))
                )
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(NightlyConfig.model_json_schema())
    contracts = sorted((ROOT / "data_contracts").glob("*.odcs.yaml"))
    assert contracts
    for path in contracts:
        for table in yaml.safe_load(path.read_text(encoding="utf-8"))["schema"]:
            for column in table["properties"]:
                wrong += [
                    f"{path.name}: column {column['name']} uses {term}"
                    for term in used(column["name"], terms)
                ]
    assert not wrong, "\n".join(wrong)


def test_templates_use_the_glossary(terms):
    wrong = []
    templates = sorted((ROOT / "faceid_core").rglob("*.html"))
    assert templates
    for path in templates:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            wrong += [
                f"{relative(path)}:{number}: uses {term}"
                for term in used(line, in_sentences(terms), relative(path))
            ]
    assert not wrong, "\n".join(wrong)


def test_the_columns_left_out_exist():
    columns = {
        column["name"]
        for path in (ROOT / "data_contracts/released/0.1.0").glob("*.odcs.yaml")
        for table in yaml.safe_load(path.read_text(encoding="utf-8"))["schema"]
        for column in table["properties"]
    }
    assert columns >= NAMES_OF_VERSION_1


def test_sentences_name_their_subject():
    count, places = 0, []
    for path in prose():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := PRONOUNS.findall(line):
                count += len(found)
                places.append(f"{relative(path)}:{number}: {', '.join(found)}")
    assert count < 20, f"{count} of the four pronouns where a noun belongs:\n" + "\n".join(places)


def prose() -> Iterator[Path]:
    """The project's own texts: code, pages and configuration, without the dated studies and the word lists."""
    left_out = (
        "docs/studies/",
        "docs/glossary.md",
        "tests/code/test_words.py",
        "tests/helpers/clip_vocabulary/",
    )
    tops = [path for path in ROOT.iterdir() if path.name in (*PACKAGES, "tests", "docs", "infra")]
    files = [path for top in tops for path in top.rglob("*") if path.is_file()]
    for path in sorted([*files, *(path for path in ROOT.iterdir() if path.is_file())]):
        if path.name.endswith(PROSE) and not relative(path).startswith(left_out) and "site" not in path.parts:
            yield path


@pytest.mark.parametrize(
    ("text", "term", "is_used"),
    [
        ("night_of", "night", True),
        ("NightKey", "night", True),
        ("nightly", "night", False),
        ("at_side", "at_side", True),
        ("inside", "at_side", False),
        ("what_at_side", "at_side", True),
        ("a night ends", "night", True),
        ("concepts_obeyed", "obeyed", False),
        ("is_obeyed", "obeyed", True),
    ],
)
def test_a_word_matches_whole_parts(text, term, is_used):
    assert bool(used(text, [term.split("_")])) is is_used
