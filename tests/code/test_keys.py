"""Keys: the golden ones never change, equal meaning gives equal keys, unequal meaning never does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceid_core.store import Output, StageCache, StageCall, canonical_json, keys, sha256_hex

PHOTO, TOKENS, WEIGHTS = (sha256_hex(text) for text in (b"photo", b"tokens", b"weights"))


def golden_parts() -> dict:
    return {
        "stage": "personalize",
        "version": 3,
        "parameters": {
            "steps": 200,
            "rate": 5e-3,
            "regions": ("skin", "hair"),
            "class_word": "Frau Ä",
            "flip": None,
        },
        "precision": "float32",
        "inputs": {"mask": TOKENS, "crop": PHOTO},
        "weights": {"pipeline": WEIGHTS},
    }


def golden_call(**changed) -> StageCall:
    return StageCall(**(golden_parts() | changed))


def test_golden_keys():
    # A change here makes every store recompute everything: raise a stage's version instead.
    assert golden_call().key == "bd88357b4c85aaa6ecdfe412d22e56698f4d44ee8b3f96f48ff34408b8be3ab6"
    assert StageCall("detect", 1).key == "050007f946d9a1cf95886e07e43f9f061a1ea909deb7b3cac88b1c3997d48c88"


def test_golden_preimage():
    assert canonical_json(golden_call().preimage()).decode() == (
        f'{{"format":"faceid-stage/2","inputs":{{"crop":"{PHOTO}","mask":"{TOKENS}"}},'
        '"parameters":{"class_word":"Frau Ä","flip":null,"rate":0.005,"regions":["skin","hair"],"steps":200},'
        f'"precision":"float32","stage":"personalize","version":3,"weights":{{"pipeline":"{WEIGHTS}"}}}}'
    )


def test_calls_with_equal_parameters_share_them_and_a_change_of_the_argument_changes_no_call():
    """The prompts of a hundred thousand people lie in memory once."""
    given = {"prompts": [["beach", "a photo of V*"]], "seeds": 1}
    first, second = StageCall("generate", 1, given), StageCall("generate", 1, {**given})
    assert first.parameters is second.parameters and first.parameters == given
    turned = StageCall("generate", 1, {"seeds": 1, "prompts": given["prompts"]})
    assert turned.key == first.key and list(turned.parameters) == ["seeds", "prompts"], (
        "a stage may read them in order"
    )
    other = [StageCall("generate", 1, given | {"seeds": seeds}) for seeds in (1.0, True)]
    assert len({first.key, *(call.key for call in other)}) == 3 and type(other[1].parameters["seeds"]) is bool
    given["prompts"][0][0] = "snow"
    assert first.parameters["prompts"] == [["beach", "a photo of V*"]] and first.key == second.key


def test_a_key_is_the_same_in_another_process():
    code = "from faceid_core.store import StageCall; print(StageCall('detect', 1, {'b': 1.5, 'a': 'z'}).key)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert printed == StageCall("detect", 1, {"a": "z", "b": 1.5}).key


@pytest.mark.parametrize(
    "changed",
    [
        {"stage": "personalise"},
        {"version": 4},
        {"precision": "bfloat16"},
        {"parameters": {}},
        {"inputs": {"mask": PHOTO, "crop": TOKENS}},
        {"weights": {"pipeline": PHOTO}},
        {"weights": {"pipelines": WEIGHTS}},
    ],
)
def test_every_part_counts(changed):
    assert golden_call(**changed).key != golden_call().key


def test_values_that_differ_in_type_or_sign_have_different_spellings():
    spellings = [
        canonical_json(value) for value in (1, 1.0, True, "1", [1], 0, 0.0, -0.0, False, None, "", [], {})
    ]
    assert len(set(spellings)) == len(spellings)


def test_tuples_are_lists_and_order_of_keys_is_nothing():
    assert (
        canonical_json({"b": (1, 2), "a": 1e16})
        == canonical_json({"a": 1e16, "b": [1, 2]})
        == b'{"a":1e+16,"b":[1,2]}'
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"steps": {"rate": float("nan")}}, "steps.rate"),
        ([0.0, float("inf")], r"\[1\]"),
        ({"box": np.zeros(2)}, "box is a ndarray"),
        ({"count": np.int64(1)}, "int64"),
        ({1: "a"}, "keys are strings"),
        ({"a"}, "set"),
        (b"a", "bytes"),
    ],
)
def test_what_has_no_canonical_spelling_is_refused_by_name(value, told):
    with pytest.raises((TypeError, ValueError), match=told):
        canonical_json(value)


def test_a_numpy_float_is_spelled_as_its_value():
    assert canonical_json(np.float64(0.1)) == b"0.1"


def test_a_call_does_not_change_with_what_it_was_made_from():
    parameters = {"regions": ["skin"]}
    call = StageCall("mask", 1, parameters)
    parameters["regions"].append("hair")
    assert call.key == StageCall("mask", 1, {"regions": ["skin"]}).key
    assert call == StageCall("mask", 1, {"regions": ("skin",)}) and len({call, StageCall("mask", 1, {})}) == 2


@pytest.mark.parametrize(
    "parts",
    [
        {"stage": "../x"},
        {"stage": "Mask"},
        {"stage": "mask\n"},
        {"version": 0},
        {"version": True},
        {"inputs": {"photo": "anna.png"}},
        {"weights": {"pipeline": "a" * 63}},
    ],
)
def test_parts_that_cannot_stand_in_a_key_are_refused(parts):
    with pytest.raises(ValueError):
        golden_call(**parts)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain_values)
def test_reading_a_spelling_gives_the_same_spelling(value):
    try:
        spelled = canonical_json(value)
    except UnicodeEncodeError:
        return
    assert canonical_json(json.loads(spelled)) == spelled


def pythons() -> list[str]:
    """Interpreters that this project may run under, one of each version: this one, those on the PATH and beside it."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(11, 20):
        name = f"python3.{minor}"
        beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
        for path in filter(None, [shutil.which(name), *map(str, beside)]):
            # A version manager's stand-in for what is not installed answers with an error.
            if (3, minor) not in found and not subprocess.run(
                [path, "-I", "-c", ""], capture_output=True
            ).returncode:
                found[3, minor] = path
    return list(found.values())


def test_keys_are_the_same_in_every_python_that_is_here():
    """The room of keys needs the standard library only, so that any interpreter can be asked."""
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('keys', {keys.__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['keys'] = module; spec.loader.exec_module(module)\n"
        f"print(module.StageCall(**{golden_parts()!r}).key)\n"
    )
    for python in pythons():
        # Without the environment's packages, and with hashes that differ from process to process.
        printed = subprocess.run([python, "-I", "-R", "-c", code], capture_output=True, text=True)
        assert printed.returncode == 0, f"{python}: {printed.stderr}"
        assert printed.stdout.strip() == golden_call().key, python


def test_a_result_kept_in_one_store_is_found_in_the_other(folder_store, s3_store):
    outputs = {"mask": Output(b"bytes", "image/png")}
    for store in (folder_store, s3_store):
        StageCache(store, "common").commit(golden_call(), outputs, {"host": store.url})
    contents = [
        StageCache(store, "common").lookup(golden_call()).content for store in (folder_store, s3_store)
    ]
    assert contents[0] == contents[1]
    names = [sorted(info.name for info in store.list("")) for store in (folder_store, s3_store)]
    assert names[0] == names[1]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_was_read_from_json_is_spelled_as_it_was(value):
    """A manifest is checked against its digest as it was read, without another conversion."""
    try:
        whole = canonical_json(value)
    except ValueError:  # text that is not Unicode
        return
    assert keys.spelled(json.loads(whole)) == whole
