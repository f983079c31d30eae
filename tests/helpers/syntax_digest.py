"""What decides a stage's result, as a digest of syntax trees; and the record that a stage's version goes with it.

A stage's key holds its version, not its code. So that a change of the code cannot pass for the old result, the
digest of a stage stands beside its version in tests/code/stage_versions.json, and a test compares both.

The digest covers the stage's two halves (`stages/planning/` and `stages/executing/`), the modules that load the models
it asks for (`models.detector` and so on are not imports), and every faceid_core module that these import, also inside
functions. Docstrings, comments and layout do not count, nor do imports for type checkers. Left out are modules that
pass on what others decided: `faceid_core.errors` (an exception carries what its raiser gave it), `faceid_core.store`
(moves bytes; golden keys hold its canonical JSON still), `faceid_core.weights` (finds files, whose digests are in the
key), `faceid_core.progress`, what lies between driver and worker, `faceid_core.stages.plan`, `.work`, `.models` and
`.executing.stage` (parameters reach a stage through its key), and the other stages' modules, from which a stage takes
only the names of files. Other stages' results, weights and grids count by their digests in the key.

    python -m tests.helpers.syntax_digest                       # what has changed, by stage
    python -m tests.helpers.syntax_digest --modules detect      # the modules that count for a stage
    python -m tests.helpers.syntax_digest --raised              # after a raise: record versions and digests
    python -m tests.helpers.syntax_digest --no-effect "reason"  # results are the same: record the digests
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from faceid_core.evaluate.metrics import METRICS
from faceid_core.stages import STAGES
from faceid_core.stages.name_prior import SPEC
from faceid_core.stages.planning import spec_of

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "code" / "stage_versions.json"
GOLDEN_TESTS = "tests/model/test_golden_outputs.py"

PASSES_ON = (
    "faceid_core.errors",
    "faceid_core.store",
    "faceid_core.weights",
    "faceid_core.progress",
    "faceid_core.stages.plan",
    "faceid_core.stages.work",
    "faceid_core.stages.models",
    "faceid_core.stages.executing.stage",
)
# Where stages/models.py loads what a stage asks its worker for.
LOADERS = {
    "base": ("faceid_core.diffusion.base",),
    "detector": ("faceid_core.faces.backends",),
    "parser": ("faceid_core.faces.backends",),
    "prior": ("faceid_core.personalize.name_prior",),
    "scorers": ("faceid_core.evaluate.scorers", "faceid_core.evaluate.photographs"),
}
HALVES = ("faceid_core.stages.planning", "faceid_core.stages.executing")
# The stage that no person has, so that it is not among STAGES; a plan needs its key.
PRIOR, PRIOR_PLANNING = SPEC.name, "faceid_core.stages.name_prior"
NOT_MODELS = ("settings", "device", "kept_pictures", "measured_slots")


def stage_names() -> list[str]:
    """Every stage; score is one per metric."""
    return [PRIOR, *(name for name in STAGES if name != "score"), *(f"score-{metric}" for metric in METRICS)]


def home_of(stage: str) -> str:
    """Where the stage's version stands, as a developer would look for it."""
    if stage == PRIOR:
        return f"SPEC in {PRIOR_PLANNING.replace('.', '/')}.py"
    if stage.startswith("score-"):
        return f"METRICS[{stage.removeprefix('score-')!r}] in faceid_core/evaluate/metrics.py"
    return f"SPEC in faceid_core/stages/planning/{stage}.py"


def modules_of(stage: str) -> list[str]:
    """The modules that decide the stage's result, sorted.

    Raises:
        LookupError: if the stage asks its worker for a model that `LOADERS` does not know.
    """
    planning, executing = (f"{half}.{stage.split('-')[0]}" for half in HALVES)
    if stage == PRIOR:
        planning = PRIOR_PLANNING
    others = {f"{half}.{name}" for half in HALVES for name in STAGES} - {planning, executing}
    found, open_modules = set(), [planning, executing, *_loaders(executing)]
    while open_modules:
        module = open_modules.pop()
        if module not in found | others and not _passes_on(module):
            found.add(module)
            open_modules += imports_of(_file(module), package=_package(module))
    return sorted(found)


def digest_of(stage: str) -> str:
    """SHA-256 over the names and syntax trees of the stage's modules."""
    trees = [[module, _module_digest(module)] for module in modules_of(stage)]
    return hashlib.sha256(json.dumps(trees).encode()).hexdigest()


@cache
def _module_digest(module: str) -> str:
    return tree_digest(_file(module).read_text(encoding="utf-8"))


def tree_digest(code: str) -> str:
    """SHA-256 of the syntax tree; layout, comments and docstrings are not in it."""
    return hashlib.sha256(json.dumps(_plain(ast.parse(code))).encode()).hexdigest()


def _plain(value: object) -> object:
    """A syntax tree as lists. Empty fields are left out: which there are differs between Pythons."""
    if isinstance(value, ast.AST):
        fields = dict(ast.iter_fields(value))
        if isinstance(
            value, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and _has_docstring(value):
            fields["body"] = value.body[1:]
        return [
            type(value).__name__,
            *([name, _plain(held)] for name, held in fields.items() if held is not None and held != []),
        ]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return repr(value)  # tells 1, 1.0, True and "1" apart


def _has_docstring(node: ast.AST) -> bool:
    first = node.body[0] if node.body else None
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def imports_of(file: Path, *, package: str) -> Iterator[str]:
    """The faceid_core modules that a file imports, wherever in it; a submodule counts, its package does not."""
    for node in _run_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("faceid_core."))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *([node.module] if node.module else [])])
            if source.split(".")[0] == "faceid_core":
                for alias in node.names:
                    submodule = f"{source}.{alias.name}"
                    yield submodule if _exists(submodule) else source


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            continue
        yield child
        yield from _run_nodes(child)


def _loaders(module: str) -> list[str]:
    """The modules that load what a stage module asks of its `models`."""
    asked = {
        node.attr
        for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "models"
    } - set(NOT_MODELS)
    strange = sorted(asked - set(LOADERS))
    if strange:
        raise LookupError(
            f"{module} asks for models.{strange[0]}; say in LOADERS of tests/helpers/syntax_digest.py "
            "which module loads it"
        )
    return sorted({module for name in asked for module in LOADERS[name]})


def _passes_on(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in PASSES_ON)


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _file(module).is_file()


def _package(module: str) -> str:
    return module if _file(module).name == "__init__.py" else module.rpartition(".")[0]


def read_record() -> dict[str, dict]:
    """Stage to {version, digest, why}; empty where nothing is recorded yet."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def problem_with(stage: str, recorded: dict | None, *, version: int, digest: str) -> str | None:
    """What a developer must do about the stage, or None if version and digest are the recorded ones."""
    command = "python -m tests.helpers.syntax_digest"
    if recorded is None:
        return f"stage {stage} is not recorded yet: run `{command} --raised`"
    if version < recorded["version"]:
        return (
            f"stage {stage} went back from version {recorded['version']} to {version}, whose results stores "
            f"still hold: raise it above {recorded['version']} in {home_of(stage)}, then run `{command} --raised`"
        )
    if version > recorded["version"]:
        return f"stage {stage} was raised to version {version}: run `{command} --raised`"
    if digest != recorded["digest"]:
        return (
            f"code that decides the result of stage {stage} (version {version}) has changed: if the same inputs may "
            f"now give another result, raise the version ({home_of(stage)}) and run `{command} --raised`; if not, "
            f'run `{command} --no-effect "reason"`. `{command} --modules {stage}` lists the code that counts'
        )
    return None


def problems() -> dict[str, str]:
    """Stage to what must be done about it, of every stage that differs from the record."""
    record = read_record()
    found = {}
    for stage in stage_names():
        problem = problem_with(
            stage, record.get(stage), version=spec_of(stage).version, digest=digest_of(stage)
        )
        if problem:
            found[stage] = problem
    return found


def record_raised() -> list[str]:
    """Record every stage that is new or whose version was raised; returns their names."""
    record = read_record()
    done = [
        stage
        for stage in stage_names()
        if stage not in record or spec_of(stage).version > record[stage]["version"]
    ]
    _write(record, done, "the version was raised")
    return done


def record_no_effect(reason: str) -> list[str]:
    """Record the digests of stages that changed under the same version; returns their names."""
    record = read_record()
    done = [
        stage
        for stage in stage_names()
        if stage in record
        and spec_of(stage).version == record[stage]["version"]
        and digest_of(stage) != record[stage]["digest"]
    ]
    _write(record, done, f"no effect: {reason}")
    return done


def _write(record: dict, changed: list[str], why: str) -> None:
    for stage in changed:
        said = "recorded first" if stage not in record else why
        record[stage] = {"version": spec_of(stage).version, "digest": digest_of(stage), "why": said}
    kept = {stage: record[stage] for stage in stage_names() if stage in record}
    RECORD.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if the record then agrees with the code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.helpers.syntax_digest", description=__doc__.split("\n")[0]
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--raised", action="store_true", help="record stages whose version was raised, and new ones"
    )
    choice.add_argument("--no-effect", metavar="REASON", help="record changes that cannot change a result")
    choice.add_argument(
        "--modules", metavar="STAGE", choices=stage_names(), help="list what counts for a stage"
    )
    chosen = parser.parse_args(arguments)
    if chosen.modules:
        print("\n".join(modules_of(chosen.modules)))
        return 0
    if chosen.no_effect is not None:
        if not chosen.no_effect.strip():
            parser.error("--no-effect needs a reason that a reviewer can check")
        golden = [sys.executable, "-m", "pytest", "-q", GOLDEN_TESTS]
        if subprocess.run(golden, cwd=ROOT).returncode:
            print(
                f"Nothing recorded: {GOLDEN_TESTS} does not pass, so the change has an effect; raise the version."
            )
            return 1
        print(f"Recorded: {', '.join(record_no_effect(chosen.no_effect.strip())) or 'nothing'}.")
    elif chosen.raised:
        print(f"Recorded: {', '.join(record_raised()) or 'nothing'}.")
    left = problems()
    print("\n".join(left.values()) if left else "Every stage is as recorded.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
