"""What an exported person is called, and progress that cannot be shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from faceid_core.errors import ConfigurationError
from faceid_core.personalize.prompts import DEFAULT_TOKEN_PATTERN, placeholder_token
from flows.export import StepProgress

KEY = "3f2a9c1b" * 4


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (DEFAULT_TOKEN_PATTERN, "<3f2a9c1b>"),
        ("<{id}>", "<ann-smith>"),
        ("sks", "sks"),
        ("v-{id}-{key}", "v-ann-smith-3f2a9c1b"),
    ],
)
def test_the_word_is_the_key_s_the_id_s_or_one_s_own(pattern, word):
    assert placeholder_token(pattern, "Ann-Smith", KEY) == word


@pytest.mark.parametrize("pattern", ["", "two words", "<V>", "<{ID}>"])
def test_a_word_that_no_prompt_can_hold_is_refused(pattern):
    with pytest.raises(ConfigurationError, match="must be one word in lower case"):
        placeholder_token(pattern, "ann", KEY)


def test_progress_is_a_line_for_each_thing_under_way():
    out = io.StringIO()
    with StepProgress(Console(file=out, width=80)) as progress:
        for step in range(1, 4):
            progress("drawing", step, 3)
        progress("distilling, steps", 1, 300)
    assert out.getvalue().splitlines() == ["drawing: 1 of 3", "distilling, steps: 1 of 300"]


SHOWS = """
import sys
from rich.console import Console
from flows.display import protect_standard_streams
from flows.export import StepProgress

protect_standard_streams(product=False)
with StepProgress(Console()) as progress:
    progress("drawing", 1, 3)
    progress("drawing", 2, 3)
    progress("distilling, steps", 1, 300)
print("the work is done", file=sys.stderr)
"""


@pytest.mark.parametrize("gone", ["its reader", "its disk"])
def test_progress_that_cannot_be_shown_ends_no_work(gone):
    """The command's standard output is guarded once, for all that it prints."""
    reads, writes = os.pipe()
    os.close(reads)
    with open("/dev/full", "wb") as full, open(writes, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", SHOWS], stdout=full if gone == "its disk" else pipe, stderr=subprocess.PIPE
        )
    assert done.returncode == 0 and b"the work is done" in done.stderr, done.stderr.decode()
