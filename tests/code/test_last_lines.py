"""The commands that a run's last lines print."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from faceid_core.config import parse_config
from faceid_core.publish.publish import _model_option


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"weights": "/models", "base_model": {"source": "sd15"}},
        {"base_model": {"source": "sdxl", "weights": "/my models"}},
        {"base_model": {"source": "/models/one.safetensors", "layout": "sd15"}},
    ],
)
def test_the_command_for_tokens_names_the_base_model_and_where_it_lies(given):
    config = parse_config(given)
    words = shlex.split(_model_option(SimpleNamespace(config=config)))
    settings = dict(word.split("=", 1) for word in words if word != "--set")
    again = parse_config(
        {"weights": settings.pop("weights", ""), "base_model": {k.split(".")[1]: v for k, v in settings.items()}}
    )
    for name in ("source", "weights", "layout"):
        assert getattr(again.base_model, name) == getattr(config.base_model, name)
    assert again.weights == config.weights
