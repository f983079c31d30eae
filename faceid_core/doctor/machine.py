"""The machine: devices, memory, disk, and the versions of the libraries against what this project pins."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from faceid_core.config import NightlyConfig
from faceid_core.cpus import available_cpus
from faceid_core.errors import FaceidError
from faceid_core.store.folder import folder_of
from faceid_core.weights.describe import MINIATURE
from faceid_core.weights.resolve import base_files

from .finding import Finding

PACKAGE = "faceid"
# Room for the process and its activations beside the weights. A rule of thumb: the doctor warns, a run decides.
_LEAST_FREE_SHARE = 1.2
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LEAST_FREE_DISK_BYTES = 2_000_000_000
_SLOW_PRODUCT = 2.0  # times float32's seconds from which a short format is not worth its memory on a CPU
_BYTES_PER_PIXEL = 2.0  # more than a PNG of a photograph and its attention map usually take


def devices(config: NightlyConfig) -> Iterator[Finding]:
    """Cores and accelerators, and whether the configured device is there."""
    import torch

    usable, cores = available_cpus(), os.cpu_count() or 1
    limit = f" of which this process may use {usable}" if usable < cores else ""
    yield Finding(
        "cpu", "ok", f"{cores} cores{limit}, {platform.machine()}, {platform.system()} {platform.release()}"
    )
    wanted, source = config.base_model.device, config.base_model.source
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding("gpu", "ok", f"{name}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    elif wanted == "cuda":
        yield Finding(
            "gpu",
            "fail",
            f"no CUDA device (torch {torch.__version__})",
            "set base_model.device: cpu, or mend the driver",
        )
    elif source != MINIATURE:
        yield Finding(
            "gpu", "warn", "no CUDA device: this base model runs on the CPU", "expect minutes a person"
        )
    else:
        yield Finding("gpu", "ok", "none; the miniature needs none")
    if wanted == "cpu" or not torch.cuda.is_available():
        yield from _precision_on_cpu(config.base_model.precision)


def _precision_on_cpu(precision: str) -> Iterator[Finding]:
    """Whether this CPU has the instructions of a short format; without them each product is computed in software."""
    if precision == "float32":
        return
    short, full = _product_seconds(precision), _product_seconds("float32")
    told = f"a matrix product in {precision} takes {short / full:.1f} times as long as in float32 on this CPU"
    if short > _SLOW_PRODUCT * full:
        yield Finding("precision", "warn", told, "set base_model.precision: float32")
    else:
        yield Finding("precision", "ok", told)


def _product_seconds(precision: str) -> float:
    """Seconds of a product of two matrices of side 256, the shortest of three."""
    import torch

    matrix = torch.ones(256, 256, dtype=getattr(torch, precision))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        found.append(time.perf_counter() - began)
    return min(found)


def memory(config: NightlyConfig) -> Iterator[Finding]:
    """Whether the workers' copies of the base model find room."""
    total, free = _memory_bytes()
    weights = _weight_bytes(config)
    if weights is None:
        yield Finding(
            "memory", "warn", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", "the base model is not here"
        )
        return
    workers = 1 if config.execution.executor == "inline" else max(1, config.execution.workers)
    need = weights * workers * _LEAST_FREE_SHARE
    found = (
        f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free; {workers} worker(s) with {weights / 1e9:.2f} GB of weights "
        f"in {config.base_model.precision}"
    )
    if need > total:
        yield Finding("memory", "fail", found, "lower execution.workers or take a smaller precision")
    elif need > free:
        yield Finding("memory", "warn", found, "end other programs, or lower execution.workers")
    else:
        yield Finding("memory", "ok", found)


def _memory_bytes() -> tuple[int, int]:
    """Total and available memory in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    try:  # what the kernel counts as available has what it could let go of in it
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(found[1]) * 1024 if found else free
    except OSError:
        pass
    return total, free


def _weight_bytes(config: NightlyConfig) -> float | None:
    """Bytes of the base model in memory at the configured precision; None where it is not here."""
    try:
        files = base_files(config)
    except FaceidError:
        return None
    if files.checkpoint is not None:
        return files.checkpoint.stat().st_size  # the precision of a single file is not known
    folder = files.folder
    by_part: dict[Path, int] = {}
    for file in folder.glob("*/*.safetensors"):
        half = ".fp16" in file.name
        by_part[file.parent] = max(by_part.get(file.parent, 0), file.stat().st_size * (2 if half else 1))
    return sum(by_part.values()) / 4 * _BYTES[config.base_model.precision]


def disk(config: NightlyConfig, people: int, own_side: int, pictures: int) -> Iterator[Finding]:
    """Free room where a folder store lies, and for temporary files.

    Args:
        people: in the manifest.
        own_side: side in pixels of the base model's own pictures.
        pictures: of each person.
    """
    import tempfile

    height, width = config.generate.size(own_side) or (own_side, own_side)
    expected = people * pictures * height * width * _BYTES_PER_PIXEL
    places = {"temporary files": (Path(tempfile.gettempdir()), 0.0)}
    if not config.store.startswith("s3://"):
        places["store"] = (folder_of(config.store), expected)
    for name, (folder, needed) in places.items():
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        found = f"{free / 1e9:.1f} GB free"
        if needed:
            found += f"; {people} people x {pictures} pictures take up to {needed / 1e9:.2f} GB"
        if needed > free:
            yield Finding(f"disk: {name}", "fail", found, "make room, or draw fewer pictures")
        elif free < max(_LEAST_FREE_DISK_BYTES, 2 * needed):
            yield Finding(f"disk: {name}", "warn", found, "make room")
        else:
            yield Finding(f"disk: {name}", "ok", found)


def versions(
    requirements: Iterable[str] | None = None, pins: dict[str, str] | None = None
) -> Iterator[Finding]:
    """The installed libraries against the ranges of the package, and the exact pins where they are at hand.

    Args:
        requirements: None for those of the installed package.
        pins: None for constraints.txt beside the package's sources, where there is one.
    """
    if requirements is None:
        try:
            requirements = metadata.requires(PACKAGE) or ()
        except metadata.PackageNotFoundError:
            yield Finding("versions", "warn", "faceid is not installed as a package", "pip install it")
            return
    pins = _pins() if pins is None else pins
    wrong, others, count = [], [], 0
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        plain = version.partition("+")[0]
        if not requirement.specifier.contains(plain, prereleases=True):
            wrong.append(f"{requirement.name} {version}, needed {requirement.specifier}")
        elif pins.get(requirement.name.lower(), plain) != plain:
            others.append(f"{requirement.name} {version}, tested with {pins[requirement.name.lower()]}")
    python = platform.python_version()
    if wrong:
        yield Finding(
            "versions",
            "fail",
            "; ".join(wrong),
            "make setup, or in the checkout: pip install -c constraints.txt -e .",
        )
    if others:
        yield Finding(
            "versions",
            "warn",
            "; ".join(others),
            "make setup installs the tested ones; results may differ a little",
        )
    if not wrong and not others:
        against = "the pins" if pins else "the package's ranges (no constraints.txt here)"
        yield Finding("versions", "ok", f"Python {python}, {count} libraries as in {against}")


def _pins() -> dict[str, str]:
    """Library in lower case -> version, of constraints.txt in a checkout; empty elsewhere."""
    file = Path(__file__).resolve().parents[2] / "constraints.txt"
    if not file.exists():
        return {}
    rows = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return {
        name.lower(): version for name, _, version in (row.partition("==") for row in rows if "==" in row)
    }
