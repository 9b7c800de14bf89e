"""Pickles as data: numbers, text, containers, numpy arrays and torch tensors come out, and nothing
can run.

A pickle is a little program that may call any function of any module. Here it may call nothing: the
names in it are looked up in a short list of stand-ins (`_NAMES`) that build arrays from checked
parts, and any other name ends the reading. Instructions for objects, extensions and outside
references do not exist. Sizes are held against the file before memory is taken for them, keys of
dictionaries are plain, so that neither 20 bytes nor a tower of tuples stops the machine.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taemi_lib.errors import TaemiError
from taemi_lib.support import files, memory

# Bytes of memory for one of the file, at most, where it holds arrays; how much must stay free.
NEEDED, _LEFT = 2.0, 256 << 20
_LOOK = 1 << 16  # small reads between two looks at the memory that is left
ADMITTED = "numpy arrays, torch tensors, text, bytes, numbers, lists, tuples, dictionaries"
_REMEDY = (
    f"admitted are {ADMITTED}. If you trust where it comes from, load it yourself and save its "
    "arrays (.npy, .safetensors)"
)


class NotData(TaemiError, ValueError):
    """A pickle that is damaged, too large, or more than data. Nothing of it was run."""


def load(path: str | Path, seen: Callable[[int], object] | None = None) -> tuple[Any, str]:
    """What a pickle (or a file of torch.save) holds, and the file's sha256.

    Arrays are of `np.ndarray`'s kind, tensors become arrays (bfloat16: float32). seen: told of the
    bytes that were read, for a progress bar. Raises NotData naming what is not admitted, or the
    memory that the file would take; OSError.
    """
    path = Path(path)
    check_memory(path)
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        reader = _Reader(file, path.stat().st_size, seen)
        if zipped:
            reader.finish()
            return _saved_by_torch(path), reader.digest()
        found = loads(reader, path.name)
        if reader.finish():
            raise NotData(
                f"{path.name}: holds more behind its end, which pickles of data do not have"
            )
        return found, reader.digest()


def check_memory(path: Path) -> None:
    """Raises NotData for a file that needs more memory than is left."""
    size = os.path.getsize(path)
    if (needed := NEEDED * size) > (there := memory.available()):
        raise NotData(
            f"{path.name}: {memory.gigabytes(size)}, a pickle can only be read whole and takes up "
            f"to {memory.gigabytes(needed)} of memory; this machine has "
            f"{memory.gigabytes(there)} left. Split the file, save one .npy a clip (format own), "
            "or import on a larger machine"
        )


def loads(content: bytes | _Reader, name: str) -> Any:
    """As `load`, from bytes. name: for the errors."""
    if not isinstance(content, _Reader):
        content = _Reader(io.BytesIO(content), len(content))
    try:
        return _plain(_Unpickler(content).load())
    except NotData as error:
        raise NotData(f"{name}: {error}") from None
    except MemoryError as error:
        raise NotData(f"{name}: takes more memory than this machine has left") from error
    except Exception as error:  # whatever a damaged or hostile sequence of instructions leads to
        said = str(error) or type(error).__name__
        raise NotData(f"{name}: is no pickle of data, or damaged ({said[:200]})") from error


class _Reader:
    """The file as the unpickler reads it: hashed on the way, never more than there is, and not
    beyond what the machine can take."""

    def __init__(self, file: Any, size: int, seen: Callable[[int], object] | None = None):
        self._file, self._left, self._seen, self.size = file, size, seen, size
        self._hash, self._reads, self._bytes = hashlib.sha256(), 0, 0

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise NotData(f"claims {count:,} bytes where the file has {self._left:,} left")
        return self._took(self._file.read(count))

    def readinto(self, place: bytearray) -> int:
        view = memoryview(place)
        for start in range(0, len(view), 1 << 24):
            piece = self.read(min(1 << 24, len(view) - start))
            view[start : start + len(piece)] = piece
        return len(view)

    def readline(self) -> bytes:
        return self._took(self._file.readline())

    def finish(self) -> int:
        """Read (and hash) the rest; how much it was."""
        rest = 0
        while piece := self._took(self._file.read(1 << 20)):
            rest += len(piece)
        return rest

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _took(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        self._hash.update(piece)
        self._bytes, self._reads = self._bytes + len(piece), self._reads + 1
        if self._bytes > 1 << 24 or self._reads > _LOOK:
            if self._seen:
                self._seen(self._bytes)
            self._bytes = self._reads = 0
            if memory.available() < _LEFT:
                raise NotData(
                    "what it holds does not fit into the memory of this machine "
                    f"({memory.gigabytes(_LEFT)} must stay free)"
                )
        elif self._seen and not piece:
            self._seen(self._bytes)
            self._bytes = 0
        return piece


# --------------------------------------------------------------------------------------------------
# what stands in for the names in a pickle


class _Named:
    """An admitted name. It can be called, and nothing else can be done with it."""

    __slots__ = ("build",)
    build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]):
        object.__setattr__(self, "build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise NotData(f"sets an attribute {name!r} of a function; {_REMEDY}")

    def __setstate__(self, state: object) -> None:
        raise NotData(f"changes a function; {_REMEDY}")


class _Kind:
    """The dtype of an array: plain numbers, text, or objects; nothing with fields."""

    __slots__ = ("dtype",)

    def __init__(self, spec: Any, *_: Any):
        # objects count no bytes of their own: each stands in a list
        if isinstance(spec, _Kind):
            self.dtype: np.dtype = spec.dtype
            return
        if not isinstance(spec, str | bytes):
            raise NotData(f"an array of type {spec!r:.60}; {_REMEDY}")
        name = spec.decode("ascii", "replace") if isinstance(spec, bytes) else spec
        if not (name[:1] in "?biufcSUO" and (name[1:].isdecimal() or len(name) == 1)):
            raise NotData(f"an array of type {name[:60]!r}; {_REMEDY}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, subtype, names, fields, item size, alignment, flags)"""
        version, order, *structure = state[:5]
        if version not in (3, 4) or any(part is not None for part in structure):
            raise NotData(f"an array with fields or of an unknown version; {_REMEDY}")
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise NotData(f"an array with byte order {order!r:.20}")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Array(np.ndarray):
    """An array that is not filled yet, and fills itself with checked parts only."""

    def __reduce__(self) -> Any:  # what came in goes out as an ordinary array
        return np.asarray(self).__reduce__()

    def __setstate__(self, state: Any) -> None:
        """(version, shape, dtype, columns first, bytes or list)"""
        *_, shape, kind, columns_first, content = state
        shape, dtype = _shape(shape), _dtype(kind)
        if isinstance(content, str):  # from Python 2, whose bytes were text
            content = content.encode("latin1")
        if dtype.hasobject:
            if type(content) is not list or len(content) != prod(shape):
                raise NotData(f"an array of {shape} objects whose list does not fit")
        else:
            _check_bytes(content, shape, dtype)
        checked: Any = (1, shape, dtype, bool(columns_first), content)
        super().__setstate__(checked)


def _shape(shape: Any) -> tuple[int, ...]:
    whole = type(shape) is tuple and all(type(count) is int and count >= 0 for count in shape)
    if not whole or len(shape) > 32:
        raise NotData(f"an array of shape {shape!r:.60}")
    return shape


def _dtype(kind: Any) -> np.dtype:
    if type(kind) is not _Kind:
        raise NotData("an array whose type is no type")
    return kind.dtype


def _check_bytes(content: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(content, bytes | bytearray):
        raise NotData("an array whose content is not bytes")
    if prod(shape) * dtype.itemsize != len(content):
        raise NotData(
            f"an array of shape {shape} and type {dtype.str} with {len(content):,} bytes, "
            f"expected {prod(shape) * dtype.itemsize:,}"
        )


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """As numpy starts an array that `__setstate__` fills."""
    if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        raise NotData(f"an array that does not start empty; {_REMEDY}")
    return np.ndarray.__new__(_Array, (0,), "b")


def _from_buffer(
    content: Any, kind: Any, shape: Any, order: Any, axes: Any = None
) -> np.ndarray:  # of protocol 5
    dtype, shape = _dtype(kind), _shape(shape)
    if dtype.hasobject or order not in ("C", "F", "K"):
        raise NotData("an array of objects in a buffer")
    _check_bytes(content, shape, dtype)
    array = np.frombuffer(content, dtype)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(_shape(axes))
    return array.reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: Any, content: Any) -> Any:
    dtype = _dtype(kind)
    if isinstance(content, str):
        content = content.encode("latin1")
    if dtype.hasobject:
        raise NotData(f"an object where a number is expected; {_REMEDY}")
    _check_bytes(content, (1,), dtype)
    return np.frombuffer(content, dtype)[0]


def _encoded(text: Any, encoding: Any = None) -> bytes:
    """How protocols below 3 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise NotData(f"text in the encoding {encoding!r:.40}")
    return text.encode("latin1")


def _bytes(content: Any = b"") -> bytes:
    if not isinstance(content, bytes | bytearray):
        raise NotData("bytes made from something else")
    return bytes(content)


def _bytearray(content: Any = b"", encoding: Any = None) -> bytearray:
    return bytearray(_bytes(content) if encoding is None else _encoded(content, encoding))


def _ordered(pairs: Any = ()) -> dict:
    if not isinstance(pairs, list | tuple):
        raise NotData("a dictionary made from something else")
    return {_key(key): value for key, value in pairs}


def _storage(content: Any) -> Any:
    """The numbers of a tensor, which torch packs as a file of its own."""
    if not isinstance(content, bytes):
        raise NotData("a tensor whose content is not bytes")
    if content[:2] == b"PK":
        raise NotData("a tensor whose content is an archive")
    found = _weights(io.BytesIO(content))
    if not isinstance(found, torch.storage.TypedStorage | torch.UntypedStorage):
        raise NotData("a tensor whose content is something else")
    return found


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise NotData("a tensor whose content is something else")
    size, stride, (offset,) = _shape(size), _shape(stride), _shape((offset,))
    numbers = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    reach = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) + 1
    if prod(size) and reach > numbers:
        raise NotData(f"a tensor of shape {size} that reaches beyond its {numbers:,} numbers")
    if prod(size) > numbers:  # a stride of 0 repeats: 20 bytes could fill the memory
        raise NotData(f"a tensor of shape {size} made of {numbers:,} numbers")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)  # type: ignore[call-overload]
    return _of_tensor(flat.as_strided(size, stride, offset))


def _parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, np.ndarray):
        raise NotData("a parameter that is no tensor")
    return data


def _of_tensor(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _refuse_call(*_: Any) -> Any:
    raise NotData(f"makes an array from nothing; {_REMEDY}")


_NDARRAY = _Named(_refuse_call)
_MULTIARRAY = {"_reconstruct": _Named(_empty_array), "scalar": _Named(_scalar)}
_NUMERIC = {"_frombuffer": _Named(_from_buffer)}
_OF_BUILTINS = {"bytes": _Named(_bytes), "bytearray": _Named(_bytearray)}
# module -> name -> what stands in for it; numpy's core moved in version 2
_NAMES: dict[str, dict[str, _Named]] = {
    "numpy": {"ndarray": _NDARRAY, "dtype": _Named(_Kind)},
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": _NUMERIC,
    "numpy._core.numeric": _NUMERIC,
    "_codecs": {"encode": _Named(_encoded)},
    "builtins": _OF_BUILTINS,
    "__builtin__": _OF_BUILTINS,
    "collections": {"OrderedDict": _Named(_ordered)},
    "torch._utils": {
        "_rebuild_tensor_v2": _Named(_tensor),
        "_rebuild_parameter": _Named(_parameter),
    },
    "torch.storage": {"_load_from_bytes": _Named(_storage)},
}


# --------------------------------------------------------------------------------------------------
# the instructions


# pickle.Unpickler is quicker and cannot leave instructions out; arrays come as one instruction each
_Python: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_Python):
    """Python's own reader without the instructions that are not data."""

    dispatch = dict(_Python.dispatch)
    for _gone in (
        *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
        *(pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS),
        *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        del dispatch[_gone[0]]
    del _gone

    def __init__(self, reader: _Reader):
        # Python 2 wrote bytes and text alike; latin1 keeps each byte
        super().__init__(reader, fix_imports=False, encoding="latin1")
        self._reader = reader

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:  # how a missing instruction shows
            code = error.args[0] if error.args else None
            if isinstance(code, int) and code not in self.dispatch:
                names = [name for name in pickle.__all__ if name.isupper()]
                what = next(
                    (name for name in names if getattr(pickle, name) == bytes([code])), str(code)
                )
                raise NotData(f"has the instruction {what}, which is not data; {_REMEDY}") from None
            raise

    def find_class(self, module: str, name: str) -> _Named:
        found = _NAMES.get(module, {}).get(name)
        if found is None:
            raise NotData(
                f"names {module[:80]}.{name[:80]}, which is not data; nothing of it was run; "
                f"{_REMEDY}"
            )
        return found

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._reader.size:  # before room is made for them
            raise NotData(f"claims {size:,} bytes, and the file has {self._reader.size:,}")
        content = bytearray(size)
        self.readinto(content)
        self.append(content)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        """Only arrays and their types are filled; others would get attributes."""
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Array, _Kind):
            raise NotData(f"fills a {type(self.stack[-1]).__name__} with attributes; {_REMEDY}")
        if type(state) is not tuple:
            raise NotData("fills an array with something else")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        if type(self.stack[-1]) is not _Named or type(arguments) is not tuple:
            raise NotData(f"calls a {type(self.stack[-1]).__name__}; {_REMEDY}")
        self.stack[-1] = self.stack[-1](*arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_pairs(items))

    dispatch[pickle.DICT[0]] = load_dict

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _a(self.stack[-1], dict)[_key(key)] = value

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _a(self.stack[-1], dict).update(_pairs(items))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_append(self) -> None:
        value = self.stack.pop()
        _a(self.stack[-1], list).append(value)

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        items = self.pop_mark()
        _a(self.stack[-1], list).extend(items)

    dispatch[pickle.APPENDS[0]] = load_appends


def _a(thing: Any, kind: type) -> Any:
    if type(thing) is not kind:
        raise NotData(f"fills a {type(thing).__name__} as if it were a {kind.__name__}")
    return thing


def _pairs(items: list) -> dict:
    return {_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


def _key(key: Any) -> Any:
    """Plain keys only: the hash of a tuple of tuples of tuples can take years."""
    flat = type(key) is tuple and all(isinstance(part, str | int | float | bytes) for part in key)
    if not (flat or key is None or isinstance(key, str | int | float | bytes | np.generic)):
        raise NotData(f"a dictionary with a {type(key).__name__} as key")
    return key


def _plain(found: Any) -> Any:
    """The top of what was read; arrays further down are of numpy's kind already, where readers
    ask for them (`as_array`)."""
    if isinstance(found, _Named | _Kind):
        raise NotData("holds a function or a type, and no data")
    return np.asarray(found) if isinstance(found, _Array) else found


def _saved_by_torch(path: Path) -> Any:
    """A file of torch.save, through torch's own reader of weights."""
    try:
        files.check_archive(path)
        found = _weights(path)
    except ValueError as error:  # NotData is one
        raise NotData(f"{path.name}: {error}") from error
    return _without_tensors(found)


def _weights(source: Path | io.BytesIO) -> Any:
    """torch.load of tensors alone. Its own messages are not passed on: they advise to load
    everything."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, for what is damaged or refused
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"names {name[1]}, which is not data" if name else "is damaged or more than tensors"
        raise NotData(
            f"a file of torch.save that {what}; nothing of it was run; {_REMEDY}"
        ) from None


def _without_tensors(found: Any, depth: int = 0) -> Any:
    """Tensors as arrays, in lists and dictionaries of a few levels."""
    if isinstance(found, torch.Tensor):
        return _of_tensor(found)
    if depth < 4 and isinstance(found, list | tuple):
        return [_without_tensors(part, depth + 1) for part in found]
    if depth < 4 and isinstance(found, dict):
        return {key: _without_tensors(part, depth + 1) for key, part in found.items()}
    return found
