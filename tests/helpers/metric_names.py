"""The metrics for Prometheus that the code makes, read from the code."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HISTOGRAM = ("_bucket", "_sum", "_count")


def declared(path: str, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Names of the series of each metric that a module makes, by the metric's name on the page."""
    found = {}
    for call in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not (isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant)):
            continue
        kind = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        name = f"{prefix}{call.args[0].value}"
        if kind in ("Counter", "CounterMetricFamily"):
            found[f"{name}_total"] = (f"{name}_total",)
        elif kind == "Histogram":
            found[name] = tuple(f"{name}{suffix}" for suffix in _HISTOGRAM)
        elif kind in ("Gauge", "GaugeMetricFamily", "_gauge"):
            found[name] = (name,)
    return found


OF_THE_DRIVER = declared("faceid_core/monitoring/metrics.py")
OF_WORKERS = declared("tasks/worker_metrics.py", "ray_")
OURS = OF_THE_DRIVER | OF_WORKERS
