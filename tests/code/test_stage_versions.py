"""A stage's code does not change under the same version unless somebody says that its results stay the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faceid_core.stages.planning import mask
from tests.helpers import syntax_digest
from tests.helpers.syntax_digest import modules_of, problem_with, problems, stage_names, tree_digest

CODE = '''"""A module."""
def twice(x):
    """Double."""
    return 2 * x
'''


def test_every_stage_is_as_recorded():
    found = problems()
    assert not found, "\n" + "\n".join(found.values())


def test_words_and_layout_do_not_count_and_everything_else_does():
    reworded = CODE.replace("Double.", "Two of it.").replace("2 * x", "(2\n    * x)  # why")
    assert tree_digest(reworded) == tree_digest(CODE)
    assert tree_digest(CODE.replace('    """Double."""\n', "")) == tree_digest(CODE)
    for other in (
        CODE.replace("2 *", "3 *"),
        CODE.replace("2 *", "2.0 *"),
        CODE.replace("2 *", "True *"),
        CODE.replace("2 *", "'2' *"),
    ):
        assert tree_digest(other) != tree_digest(CODE)
    assert tree_digest("x = 'words'") != tree_digest("x = 'others'")


def test_what_decides_a_result_counts_and_what_passes_it_on_does_not():
    detect = modules_of("detect")
    # Imported inside functions, relatively, and not at all but loaded by the worker.
    assert {"faceid_core.photos", "faceid_core.geometry.align", "faceid_core.miniature.scorers"} <= set(
        detect
    )
    assert {"faceid_core.faces.deepface_backend", "faceid_core.faces.ellipse"} <= set(detect)
    assert not [name for name in detect if "evaluate" in name or "personalize" in name or "diffusion" in name]
    assert "faceid_core.personalize.attention" in modules_of("personalize")
    assert "faceid_core.evaluate.sampling" in modules_of("generate")
    assert "faceid_core.evaluate.pictures" in modules_of("score-identity")
    assert "faceid_core.miniature.scorers" not in modules_of("mask")
    for stage in stage_names():
        module = stage.split("-")[0]
        halves = {f"faceid_core.stages.{half}.{module}" for half in ("planning", "executing")}
        if stage == "prior":  # a plan needs its key, so it lies beside the plan
            halves = {"faceid_core.stages.name_prior", "faceid_core.stages.executing.prior"}
        assert halves <= set(modules_of(stage)), stage
    for stage in stage_names():
        passing = ("faceid_core.errors", "faceid_core.store", "faceid_core.run", "faceid_core.config.nightly")
        assert not [name for name in modules_of(stage) if name.startswith(passing)], stage


def test_the_message_says_what_to_do():
    recorded = {"version": 2, "digest": "a", "why": ""}
    assert problem_with("mask", recorded, version=2, digest="a") is None
    changed = problem_with("mask", recorded, version=2, digest="b")
    assert "faceid_core/stages/planning/mask.py" in changed and '--no-effect "reason"' in changed
    assert "--raised" in changed and "--modules mask" in changed
    assert "version 3: run `python -m tests.helpers.syntax_digest --raised`" in problem_with(
        "mask", recorded, version=3, digest="b"
    )
    assert "above 2" in problem_with("mask", recorded, version=1, digest="a")
    assert "METRICS['identity']" in problem_with("score-identity", recorded, version=2, digest="b")


def test_the_commands_record_what_was_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(syntax_digest, "RECORD", tmp_path / "versions.json")
    monkeypatch.setattr(syntax_digest, "stage_names", lambda: ["mask", "parse"])
    monkeypatch.setattr(syntax_digest, "GOLDEN_TESTS", "tests/code/test_layering.py::test_nothing_unpickles")
    assert syntax_digest.main(["--raised"]) == 0
    record = syntax_digest.read_record()
    assert list(record) == ["mask", "parse"]
    usual = syntax_digest.digest_of
    monkeypatch.setattr(syntax_digest, "digest_of", lambda stage: usual(stage)[::-1])
    assert syntax_digest.main([]) == syntax_digest.main(["--raised"]) == 1
    assert syntax_digest.read_record() == record
    assert syntax_digest.main(["--no-effect", "a name only"]) == 0
    assert syntax_digest.read_record()["mask"]["why"] == "no effect: a name only"
    monkeypatch.setattr(mask, "SPEC", replace(mask.SPEC, version=2))
    assert syntax_digest.main(["--raised"]) == 0
    after = syntax_digest.read_record()
    assert (after["mask"]["version"], after["parse"]["version"]) == (2, 1)
    assert after["mask"]["why"] == "the version was raised"
    with pytest.raises(SystemExit):
        syntax_digest.main(["--no-effect", " "])
    assert "--no-effect needs a reason" in capsys.readouterr().err


def test_nothing_is_recorded_while_the_golden_outputs_differ(monkeypatch, tmp_path):
    monkeypatch.setattr(syntax_digest, "RECORD", tmp_path / "versions.json")
    monkeypatch.setattr(syntax_digest, "GOLDEN_TESTS", "tests/no/such_test.py")
    assert syntax_digest.main(["--no-effect", "a name only"]) == 1
    assert not syntax_digest.RECORD.exists()
