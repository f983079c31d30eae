"""Writes small ONNX graphs, so that DeepFace's own loading code reads a file of the real kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_FLOAT, _INTS = 1, 7


def write_mean_network(
    path: Path, *, axes: tuple[int, int], outputs: int, softmax: bool = False, seed: int = 0
) -> Path:
    """A graph from pictures to [n, outputs]: the mean over two axes, a random matrix [3, outputs], maybe a softmax.

    Args:
        axes: those of height and width: (1, 2) with channels last, (2, 3) with channels first.
    """
    matrix = np.random.default_rng(seed).normal(size=(3, outputs)).astype(np.float32)
    nodes = [
        _node("ReduceMean", ["pixels"], "mean", _ints("axes", axes) + _int("keepdims", 0)),
        _node("MatMul", ["mean", "matrix"], "scores" if softmax else "out", b""),
    ]
    if softmax:
        nodes.append(_node("Softmax", ["scores"], "out", _int("axis", 1)))
    tensor = _many(1, matrix.shape) + _number(2, _FLOAT) + _text(8, "matrix") + _bytes(9, matrix.tobytes())
    picture = [None, None, None, 3] if axes == (1, 2) else [None, 3, None, None]
    graph = (
        b"".join(_bytes(1, node) for node in nodes)
        + _text(2, "mean")
        + _bytes(5, tensor)
        + _bytes(11, _value("pixels", picture))
        + _bytes(12, _value("out", [None, outputs]))
    )
    model = _number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 13))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)
    return path


def _node(kind: str, inputs: list[str], output: str, attributes: bytes) -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, kind) + attributes


def _int(name: str, value: int) -> bytes:
    return _bytes(5, _text(1, name) + _number(3, value) + _number(20, 2))


def _ints(name: str, values: tuple[int, ...]) -> bytes:
    return _bytes(5, _text(1, name) + _many(8, values) + _number(20, _INTS))


def _value(name: str, shape: list[int | None]) -> bytes:
    sides = b"".join(
        _bytes(1, _text(2, f"d{n}") if side is None else _number(1, side)) for n, side in enumerate(shape)
    )
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, sides)))


def _many(field: int, values) -> bytes:
    return b"".join(_number(field, int(value)) for value in values)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
