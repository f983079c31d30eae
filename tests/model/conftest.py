"""What several tests of models share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """The miniature's tokenizer."""
    from transformers import CLIPTokenizer

    from faceid_core.miniature_training.pipeline_folder import PIPELINE

    return CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
