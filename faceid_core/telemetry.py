"""No telemetry: the switches of every library that would report its use."""

from __future__ import annotations

import os

# deepface, duckdb, delta-rs, torch and boto3 report nothing (their sources were searched).
SWITCHES = {
    "DO_NOT_TRACK": "1",  # Prefect's client, and its notice in a terminal; the convention of donottrack.sh
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # transformers and diffusers report through huggingface_hub
}


def refuse_telemetry() -> None:
    """Switch telemetry off in this process and its children; a variable that is set already stays as it is.

    Call this before these libraries are imported: some read their switch once.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
