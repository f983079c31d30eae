"""The sections `metrics` and `log`: what monitoring sees of a run. Nothing here decides a result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import LocalPath, Section

LogFormat = Literal["text", "json"]


class MetricsConfig(Section):
    """Prometheus metrics of a run; all off by default."""

    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of an HTTP endpoint /metrics that the run offers until it ends; 0 takes a free port, which "
        "is noted. Empty: none.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address on which that endpoint listens. It has neither password nor TLS; what it shows are "
        "figures without ids and keys.",
    )
    textfile: LocalPath = Field(
        "",
        pattern=r"^(.*[^/]\.prom)?$",
        description="File for the textfile collector of node_exporter, as in /var/lib/node_exporter/faceid.prom; it is "
        "replaced whole at the start, after each stage, every 15 s and at the end. Empty: none.",
    )
    pushgateway: str = Field(
        "",
        pattern=r"^(https?://[^\s@]+)?$",
        description="Address of a Pushgateway, which is sent the same figures at the same times, with the run's name "
        "as job. Empty: none.",
    )
    ray_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of Ray's own metrics, where Ray is started on this machine; empty: a free port. The nodes "
        "of a cluster have theirs (`ray start --metrics-export-port`).",
    )

    @property
    def wanted(self) -> bool:
        """Whether the run keeps metrics at all."""
        return self.port is not None or bool(self.textfile or self.pushgateway)


class LogConfig(Section):
    """What is logged beside the run's own output."""

    format: LogFormat = Field(
        "text",
        description="json writes each event and log line to stderr as one JSON object with time, level, logger, "
        "message, run, stage and identity_key. Progress in the terminal stays on stdout.",
    )
