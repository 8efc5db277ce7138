"""What is inside an ONNX file, read with numpy alone: a robot has no `onnx` package.

An ONNX file is one protocol-buffers message; this walks ModelProto.graph (field 7) -> GraphProto.initializer
(field 5) -> TensorProto, or -> GraphProto.node (field 1) -> NodeProto.op_type (field 4).
The only storage accepted is `raw_data`, which is what this project writes: so weights kept in other files ("external
data") are refused, whatever path they name.
Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import BundleError

_GRAPH, _INITIALIZER, _NODE, _OP_TYPE = 7, 5, 1, 4
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 11: np.dtype("<f8")}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_weights(model: bytes) -> dict[str, NDArray[np.generic]]:
    """All initialisers of a serialised ONNX model, by name.

    Raises:
        BundleError: the bytes are no whole ONNX model, or a tensor is stored in another way.
    """
    weights: dict[str, NDArray[np.generic]] = {}
    for field, graph in _fields(memoryview(model)):
        if field == _GRAPH and isinstance(graph, memoryview):
            for inner, tensor in _fields(graph):
                if inner == _INITIALIZER and isinstance(tensor, memoryview):
                    name, values = _tensor(tensor)
                    weights[name] = values
    if not weights:
        raise BundleError("no weights inside; not an ONNX model")
    return weights


def read_operators(model: bytes) -> set[str]:
    """Kinds of the nodes of a serialised ONNX model, such as "MatMul".

    Raises:
        BundleError: the bytes are no whole ONNX model.
    """
    return {
        bytes(kind).decode("utf-8", "replace")
        for field, graph in _fields(memoryview(model))
        if field == _GRAPH and isinstance(graph, memoryview)
        for inner, node in _fields(graph)
        if inner == _NODE and isinstance(node, memoryview)
        for innermost, kind in _fields(node)
        if innermost == _OP_TYPE and isinstance(kind, memoryview)
    }


def _tensor(message: memoryview) -> tuple[str, NDArray[np.generic]]:
    dims: list[int] = []
    name, data_type, raw = "", 0, memoryview(b"")
    for field, value in _fields(message):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif field == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif field == _NAME and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif field == _RAW_DATA and isinstance(value, memoryview):
            raw = value
        else:
            raise BundleError(f"tensor {name!r} is stored in a way that is not accepted (field {field})")
    if data_type not in _DTYPES:
        raise BundleError(f"tensor {name!r} has data type {data_type}; accepted are float32, float64, int64 and bool")
    dtype = _DTYPES[data_type]
    if len(raw) != dtype.itemsize * math.prod(dims):
        raise BundleError(f"tensor {name!r} of shape {dims} has {len(raw)} bytes")
    try:
        return name, np.frombuffer(raw, dtype).reshape(dims)
    except ValueError as error:
        raise BundleError(f"tensor {name!r} cannot have shape {dims}") from error


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of each field; embedded messages, texts and bytes come as views."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire, field = key & 7, key >> 3
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise BundleError(f"not an ONNX model (wire type {wire})")
        if position + size > len(message):
            raise BundleError(f"the ONNX file is cut short: {position + size - len(message)} bytes are missing")
        yield field, message[position : position + size]
        position += size


def _varints(message: memoryview) -> Iterator[int]:
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise BundleError("the ONNX file is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BundleError("not an ONNX model (a number is too long)")
