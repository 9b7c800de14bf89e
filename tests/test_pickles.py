"""Pickles are read as data: what data is made of comes back as it was, and nothing else happens,
whatever a file asks for."""

import builtins
import collections
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from taemi_lib.support import memory, pickles
from taemi_lib.support.pickles import NotData

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    np.arange(3, dtype=">i2"),
    np.array(["a", "bbb", "äß"]),
    np.array([b"a", b"bb"]),
    np.array(["a", None, 3], dtype=object),
    np.array([np.zeros(2), np.ones(3)], dtype=object),
    np.zeros((0, 3)),
    np.array(5.0),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_data_comes_back_as_it_was(protocol):
    plain = {"a": [1, -(2**70), 2.5, None, True], b"b": (b"x", "y", bytearray(b"z")), 3: {}}
    assert pickles.loads(pickle.dumps(plain, protocol), "x") == plain
    ordered = collections.OrderedDict(train=[1], valid=[2])
    assert pickles.loads(pickle.dumps(ordered, protocol), "x") == dict(ordered)
    for array in ARRAYS:
        found = pickles.loads(pickle.dumps([array], protocol), "x")[0]
        assert np.asarray(found).dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        if array.dtype != object:
            np.testing.assert_array_equal(found, array)
        else:
            assert all(np.array_equal(a, b) for a, b in zip(found, array, strict=True))
    for scalar in (np.float32(2.5), np.int64(7), np.str_("so"), np.bytes_(b"so"), np.True_):
        assert pickles.loads(pickle.dumps(scalar, protocol), "x") == scalar


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_in_a_pickle_become_arrays(protocol):
    for tensor in (
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(6.0)[2:5],
        torch.ones(2, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(3)),
        torch.zeros(0, 3),
        torch.tensor(3),
    ):
        found = pickles.loads(pickle.dumps([tensor], protocol), "x")[0]
        np.testing.assert_array_equal(found, tensor.detach().float().numpy())


def test_a_file_of_torch_save_is_read_by_torchs_reader_of_weights(tmp_path):
    torch.save({"audio": torch.ones(2, 3), "more": [torch.zeros(1)]}, tmp_path / "x.pt")
    found, sha256 = pickles.load(tmp_path / "x.pt")
    np.testing.assert_array_equal(found["audio"], np.ones((2, 3)))
    assert isinstance(found["more"][0], np.ndarray) and len(sha256) == 64


def test_modules_of_numpy_are_known_by_their_old_and_new_names():
    new = pickle.dumps(np.arange(3.0), 2)
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for content in (new, old):
        np.testing.assert_array_equal(pickles.loads(content, "x"), np.arange(3.0))


def test_a_pickle_of_python_2_is_read():
    # what Python 2.7 and NumPy 1.16 wrote of {'id': array([1., 2.])}: text for bytes
    numbers = struct.pack("<2d", 1, 2)
    content = (
        b"\x80\x02}q\x00U\x02idq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f8q\n"
        b"K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89"
        b"U\x10" + numbers + b"q\x0ftq\x10bs."
    )
    np.testing.assert_array_equal(pickles.loads(content, "x")["id"], [1, 2])


# --------------------------------------------------------------------------------------------------
# hostile ones


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) + (() if state is None else (state,))

    def __reduce__(self):
        return self.parts


def named(*path):
    """The instructions that put module.name on the stack (protocol 4: dots reach into it)."""
    module, name = path
    return (
        b"\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93"
    )


def program(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def text(word):
    return b"\x8c" + bytes([len(word)]) + word.encode()


MARK = "it-was-run"
TOUCH = f"open({MARK!r}, 'w').close()"
SHELL = f"touch {MARK}"
NESTED = pickle.dumps(Call(os.system, SHELL))
ARRAY_CORE = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray")


def object_array():
    """An array whose objects are a call."""
    return pickle.dumps(np.array([Call(os.system, SHELL), 1], dtype=object))


def tensor_of(content):
    """A tensor whose storage torch shall load from `content`."""
    storage = (
        named("torch.storage", "_load_from_bytes")
        + b"B"
        + struct.pack("<I", len(content))
        + content
    )
    return program(storage, b"\x85R")


def old_torch():
    file = io.BytesIO()
    torch.save(Call(os.system, SHELL), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


HOSTILE = {
    "os.system": pickle.dumps(Call(os.system, SHELL)),
    "builtins.eval": pickle.dumps(Call(eval, TOUCH)),
    "builtins.exec": pickle.dumps(Call(exec, TOUCH)),
    "python 2 eval": b"c__builtin__\neval\n(V" + TOUCH.encode() + b"\ntR.",
    "subprocess": pickle.dumps(Call(__import__("subprocess").Popen, ["touch", MARK])),
    "getattr": pickle.dumps(Call(getattr, {}, "__class__")),
    "chain of attributes": program(named("numpy", "ndarray.__reduce__.__globals__"), b")R"),
    "dots into a module": program(named("numpy", "os.system"), text(SHELL), b"\x85R"),
    "stand-in by its own name": program(named("taemi_lib.support.pickles", "os.system"), b")R"),
    "builtins.__import__": pickle.dumps(Call(builtins.__import__, "this")),
    "operator": pickle.dumps(Call(__import__("operator").attrgetter, "x")),
    "functools.partial": pickle.dumps(__import__("functools").partial(os.system, SHELL)),
    "numpy.load": pickle.dumps(Call(np.load, "x.npy", None, True)),
    "numpy.fromfile": pickle.dumps(Call(np.fromfile, "x")),
    "numpy runstring": b"cnumpy.testing._private.utils\nrunstring\n(V" + TOUCH.encode() + b"\n}tR.",
    "numpy f2py": b"cnumpy.f2py.crackfortran\nmyeval\n(V" + TOUCH.encode() + b"\ntR.",
    "numpy memmap": program(named("numpy", "memmap"), text(MARK), b"\x85R"),
    "torch.load": pickle.dumps(Call(torch.load, "x.pt")),
    "torch.hub": program(named("torch.hub", "load"), text("x"), b"\x85R"),
    "torch storage with code": tensor_of(NESTED),
    "torch storage with an old file": tensor_of(old_torch()),
    "objects in an array": object_array(),
    "a pickle in a pickle": pickle.dumps(Call(pickle.loads, NESTED)),
    "instance": b"(S'" + SHELL.encode() + b"'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'" + SHELL.encode() + b"'\no.",
    "new object": program(named("numpy", "ndarray"), b"(K\x05t\x81"),
    "new object with keywords": program(named("numpy", "ndarray"), b")}\x92"),
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pmodule\n.",
    "buffer": b"\x80\x05\x97.",
    "attributes of a function": program(
        named("_codecs", "encode"), b"}", text("__code__"), b"K\x01sb"
    ),
    "attributes of a type": program(
        named("numpy", "dtype"), b"N}", text("__call__"), b"K\x01s\x86b"
    ),
    "attributes of a dictionary": program(b"}}", text("x"), b"K\x01sb"),
    "an array from nothing": program(named("numpy", "ndarray"), b"K\x05\x85R"),
    "fields": program(named("numpy", "dtype"), text("V8"), b"\x85R"),
    "a file of torch.save": None,  # written by the test
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_nothing_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "features.pkl"
    if HOSTILE[name] is None:
        torch.save(Call(os.system, SHELL), path)
    else:
        path.write_bytes(HOSTILE[name])
    with pytest.raises(NotData, match=r"features\.pkl: ") as caught:
        pickles.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "instance", "objects in an array"])
def test_the_same_pickles_run_where_nobody_takes_care(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE[name])
    assert (tmp_path / MARK).exists()


def test_what_is_refused_is_named(tmp_path):
    for name, said in {
        "os.system": r"names (posix|nt)\.system, which is not data; nothing of it was run",
        "builtins.eval": r"names builtins\.eval",
        "instance": "instruction INST, which is not data",
        "persistent": "instruction PERSID",
        "extension": "instruction EXT1",
    }.items():
        with pytest.raises(NotData, match=said):
            pickles.loads(HOSTILE[name], "x")


# --------------------------------------------------------------------------------------------------
# bombs


def reconstructed(shape, content=b"", kind=b"f8"):
    dtype = named("numpy", "dtype") + b"\x8c\x02" + kind + b"\x85R"
    dtype += b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = ARRAY_CORE + b"K\x00\x85C\x01b\x87R"
    size = b"\x8a\x08" + struct.pack("<q", shape) + b"\x85"
    return program(
        start,
        b"(K\x01",
        size,
        dtype,
        b"\x89",
        b"B",
        struct.pack("<I", len(content)),
        content,
        b"tb",
    )


def wide_tensor():
    """8 bytes that claim to be 2 ** 40 numbers, by a stride of 0."""
    file = io.BytesIO()
    torch.save(torch.ones(1)._typed_storage(), file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    storage = named("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(content))
    many = b"\x8a\x06" + struct.pack("<q", 2**40)[:6] + b"\x85"
    rest = b"K\x00" + many + b"K\x00\x85" + b"\x89}t"
    return program(
        named("torch._utils", "_rebuild_tensor_v2"), b"(", storage, content, b"\x85R", rest, b"R"
    )


def laughs():
    """Ten lists of ten of the one before: 10 ** 10 words, were anybody to count them."""
    whole = ["ha"] * 10
    for _ in range(10):
        whole = [whole] * 10
    return pickle.dumps(whole)


BOMBS = {
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "an array that is not there": reconstructed(2**40),
    "a negative array": reconstructed(-1),
    "an array of objects that are not there": reconstructed(2**40, b"", b"O8"),
    "an array that starts large": program(ARRAY_CORE, b"J\xff\xff\xff\x7f\x85C\x01b\x87R"),
    "a tensor that is not there": wide_tensor(),
    "a tower of tuples as key": None,
    "damaged": pickle.dumps({"a": np.zeros(1000)})[:-500],
    "empty": b"",
    "no pickle": b"clip_id,split\na,train\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(name, tmp_path):
    content = BOMBS[name]
    if content is None:
        key = b"K\x01" + b"2\x86" * 60  # DUP, TUPLE2
        content = program(b"}", key, b"K\x01s")
    (tmp_path / "x.pkl").write_bytes(content)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(NotData, match=r"x\.pkl: "):
        pickles.load(tmp_path / "x.pkl")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 24
    assert time.process_time() - started < 5


def test_a_far_place_in_the_memo_and_repeated_lists_cost_nothing():
    far = b"\x80\x04K\x01r" + struct.pack("<I", 2**32 - 1) + b"."
    tracemalloc.start()
    assert pickles.loads(far, "x") == 1
    assert len(pickles.loads(laughs(), "x")) == 10
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_packed_torch_file_that_grows_is_refused(tmp_path):
    torch.save(torch.zeros(1 << 20), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as plain,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.namelist():
            packed.writestr(part, plain.read(part))
    with pytest.raises(NotData, match="packed"):
        pickles.load(tmp_path / "b.pt")


def test_reading_stops_when_the_memory_runs_out(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([float(i) for i in range(200_000)], 3))
    left = iter([1 << 40, *[1 << 20] * 100])
    monkeypatch.setattr(memory, "available", lambda: next(left))
    with pytest.raises(NotData, match="does not fit into the memory"):
        pickles.load(tmp_path / "x.pkl")


def test_what_stands_behind_the_end_is_not_passed_over(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({}) + NESTED)
    with pytest.raises(NotData, match="holds more behind its end"):
        pickles.load(tmp_path / "x.pkl")
