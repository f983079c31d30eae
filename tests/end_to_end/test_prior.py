"""The name prior in whole runs: made once for a store, made again when damaged, told when it cannot be made."""

import pytest

from faceid_core.config import parse_config
from faceid_core.config.presets import PRESETS
from faceid_core.errors import ConfigurationError
from faceid_core.nightly import drive_inline
from faceid_core.personalize.known_names import prior_names
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.plan.planning import plan_run
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.store import StageCache


def execute(config):
    run = open_run(config, LogReporter())
    return run, drive_inline(run)


def prior_of(run):
    cache = StageCache(run.store, "common")
    manifest = cache.read_manifest("prior", run.plan.prior.key)
    return manifest, cache.read(manifest, "prior.safetensors")


def test_a_prior_is_made_once_and_again_when_it_is_damaged(small, people, tmp_path):
    names = tmp_path / "names.txt"  # few of the miniature's, so that their portraits take a second
    names.write_text("\n".join(prior_names("", "miniature")[:10]))
    learning = {
        "preset": "semantic-fidelity+prior",
        "names_file": str(names),
        "slots": 2,
        "method": {"steps": 3, "samples_per_step": 5, "prior_portraits": 1},
    }
    store = str(tmp_path / "store")

    def configured(**sections):
        return small(store, people, personalize=learning, score={"metrics": ["identity"]}, **sections)

    config = configured()
    about = plan_run(config).about_prior()
    assert about is not None and "10 names x 1 portraits" in about
    first, ended = execute(config)
    assert ended.exit_status == 0
    assert plan_run(config).about_prior() is None
    more = {**learning, "method": {**learning["method"], "prior_portraits": 2}}
    told = plan_run(small(store, people, personalize=more, score={"metrics": ["identity"]}))
    assert told.estimate.seconds["prior"] > 0 and " s of drawing" in (told.about_prior() or "")
    manifest, data = prior_of(first)
    assert manifest.provenance["names"] == 10 and manifest.provenance["names_left_out"] == 0
    subject = next(each for each in first.subjects.values() if each.identity_id == "ann")
    made = subject.manifests["personalize"]
    tokens = IdentityTokens.from_bytes(StageCache(first.store, subject.scope).read(made, "tokens.safetensors"))
    assert len(tokens.names) == 10 and tokens.is_mixture

    again, _ = execute(configured(run={"from_stage": "personalize", "force": True}))
    assert again.computed["personalize"] == 2
    assert prior_of(again)[0].provenance == manifest.provenance, "not drawn again"

    place = tmp_path / "store" / "common" / "blobs"
    (blob,) = place.rglob(f"*{manifest.outputs['prior.safetensors'].digest}*")
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    third, ended = execute(configured(run={"from_stage": "personalize", "force": True}))
    assert ended.exit_status == 0 and prior_of(third)[1] == data


def test_names_files_that_cannot_be_used_say_why(tmp_path):
    cases = {
        "one two\nthree\n": "line 2 is not a name of two words",
        "one two\nOne  Two\n": "has a name twice",
    }
    for number, (text, sentence) in enumerate(cases.items()):
        path = tmp_path / f"{number}.txt"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=sentence):
            prior_names(str(path), "miniature")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        prior_names(str(tmp_path / "absent.txt"), "miniature")
    with pytest.raises(ConfigurationError, match="names_file"):
        prior_names("", "/models/sd15")


def test_without_names_a_preset_with_a_prior_learns_vectors():
    preset = {"preset": "semantic-fidelity+prior"}
    assert parse_config({"personalize": preset}).method().needs_prior
    other = {"base_model": {"source": "/models/sd15"}, "personalize": preset}
    assert parse_config(other).method() == PRESETS["semantic-fidelity"]
    assert parse_config(other).preset_in_use() == "semantic-fidelity", "which the table of runs names"
    other["personalize"] = preset | {"names_file": "names.txt"}
    assert parse_config(other).method().needs_prior
