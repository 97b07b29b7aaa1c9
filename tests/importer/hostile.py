"""Hostile and damaged files by name: bytes, or a function of a canary path that a payload would create."""

import os
import pickle
import struct
import zipfile

from .assembler import (
    MARK,
    PROTO,
    STOP,
    archive_of,
    array,
    call,
    data,
    denoiser,
    described,
    doubling_modules,
    file,
    integer,
    legacy,
    many,
    mapping,
    name,
    nested_modules,
    number_type,
    one_storage,
    patched_zip,
    persistent,
    sequence,
    tensor,
    text,
    zipped,
)


def shell(canary, module="os"):
    return call(module, "system", text(f"touch {canary}"))


class Payload:
    """What Python's own unpickler would run."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def setting(value):
    """A file whose kwargs hold ``value``."""
    return file(denoiser(_init_kwargs=mapping(x=value)))


def buffer(**options):
    return file(denoiser(tensor(**options)))


def storage(**options):
    return file(denoiser(tensor(legacy(b"\0" * 24, **options))))


def code(instructions):
    return file(odd=instructions)


RUNNING = {
    "os.system": lambda c: code(shell(c)),
    "posix.system in place of a network": lambda c: file(shell(c, "posix")),
    "python's own pickle": lambda c: pickle.dumps({"ema": Payload(c)}, 4),
    "python's own pickle, protocol 0": lambda c: pickle.dumps({"ema": Payload(c)}, 0),
    "python's own pickle, protocol 2": lambda c: pickle.dumps({"ema": Payload(c)}, 2),
    "builtins.eval": lambda c: code(call("builtins", "eval", text(f"open({str(c)!r}, 'w')"))),
    "builtins.exec": lambda c: code(call("builtins", "exec", text(f"open({str(c)!r}, 'w')"))),
    "builtins.getattr": lambda c: code(
        call("builtins", "getattr", name("torch._utils", "_rebuild_tensor_v2"), text("x"))
    ),
    "builtins.__import__": lambda c: code(call("builtins", "__import__", text("this"))),
    "numpy's runstring": lambda c: code(call("numpy.testing._private.utils", "runstring", text("1"), b"}")),
    "torch.load": lambda c: code(call("torch", "load", text(str(c)))),
    "pickle.loads": lambda c: code(call("pickle", "loads", data(pickle.dumps(Payload(c))))),
    "source text that acts": lambda c: setting(shell(c)),
    "dotted global": lambda c: code(name("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__")),
    "dotted module": lambda c: code(name("collections.abc.os", "system")),
    "dotted through a dictionary": lambda c: code(name("collections", "OrderedDict.fromkeys")),
    "old GLOBAL line": lambda c: code(b"cos\nsystem\n" + many(text(f"touch {c}")) + b"R"),
    "GLOBAL line without end": lambda c: code(b"c" + b"a" * 100_000),
    "INST": lambda c: code(MARK + text(f"touch {c}") + b"ios\nsystem\n"),
    "OBJ": lambda c: code(MARK + name("collections", "OrderedDict") + b"o"),
    "nested: a pickle that acts, alone": lambda c: file(denoiser(tensor(pickle.dumps(Payload(c), 2)))),
    "nested: in place of the magic number": lambda c: storage(magic=shell(c)),
    "nested: in place of the writer": lambda c: storage(writer=b"cos\nsystem\n" + many(text(f"touch {c}")) + b"R"),
    "nested: in place of the storage": lambda c: storage(storage=shell(c)),
    "nested: in place of the keys": lambda c: storage(keys=shell(c)),
    "nested: after the values": lambda c: file(denoiser(tensor(legacy(b"\0" * 24) + pickle.dumps(Payload(c), 2)))),
    "nested: in the zip layout": lambda c: file(
        denoiser(tensor(zipped({"archive/data.pkl": pickle.dumps(Payload(c), 2), "archive/data/0": b"\0" * 24})))
    ),
    "nested: outer names": lambda c: storage(storage=call("collections", "OrderedDict")),
}

MUTATION = {
    "BUILD on a function": code(name("torch._utils", "_rebuild_tensor_v2") + mapping(__code__=b"N") + b"b"),
    "BUILD on a class": code(name("dnnlib.util", "EasyDict") + mapping(__reduce__=b"N") + b"b"),
    "BUILD on a dictionary": code(b"}" + mapping(__class__=b"N") + b"b"),
    "BUILD on an EasyDict": code(name("dnnlib.util", "EasyDict") + b")\x81" + mapping(__class__=b"N") + b"b"),
    "BUILD on an object": code(persistent("EDMLoss") + mapping(__class__=b"N") + b"b"),
    "BUILD on a storage": code(call("torch.storage", "_load_from_bytes", data(b"x")) + mapping(span=b"N") + b"b"),
    "BUILD on a tensor": code(tensor() + mapping(size=b"N") + b"b"),
    "BUILD on a dtype again": code(number_type() + many(integer(3), text("<"), *[b"N"] * 3, *[integer(0)] * 3) + b"b"),
    "BUILD with slots": code(
        name("torch.nn.modules.container", "ModuleDict") + b")\x81" + many(b"N", mapping(__class__=b"N")) + b"b"
    ),
    "BUILD twice": code(name("torch.nn.modules.container", "ModuleDict") + b")\x81" + b"}b}b"),
    "__class__ in a state": code(
        name("torch.nn.modules.container", "ModuleDict") + b")\x81" + mapping(__class__=b"N") + b"b"
    ),
    "__dict__ in an object's state": code(persistent("EDMLoss", __dict__=b"}")),
    "__reduce__ in an object's state": file(denoiser(__reduce__=b"}")),
    "NEWOBJ of a function": code(name("torch.storage", "_load_from_bytes") + b")\x81"),
    "NEWOBJ with arguments": code(name("dnnlib.util", "EasyDict") + many(b"}") + b"\x81"),
    "NEWOBJ_EX": code(name("dnnlib.util", "EasyDict") + b")}\x92"),
    "REDUCE of a class": code(call("dnnlib.util", "EasyDict", b"}")),
    "REDUCE of text": code(text("os.system") + b")R"),
    "REDUCE of an object": code(persistent("EDMLoss") + b")R"),
    "REDUCE with a list": code(name("collections", "OrderedDict") + b"]R"),
    "global named by numbers": code(integer(1) + integer(2) + b"\x93"),
}

VIEWS = {
    "stride 0": buffer(size=(6, 1 << 40), stride=(1, 0)),
    "stride 0 within the storage": buffer(size=(6,), stride=(0,)),
    "overlapping axes": buffer(size=(2, 3), stride=(1, 1)),
    "negative stride": buffer(size=(2,), stride=(-1,), offset=5),
    "negative offset": buffer(offset=-1),
    "negative size": buffer(size=(-2, -3)),
    "offset beyond": buffer(offset=1),
    "offset far beyond": buffer(offset=1 << 61),
    "view beyond the storage": buffer(size=(7,), stride=(1,)),
    "2^60 values": buffer(size=(1 << 60,), stride=(1,)),
    "sizes that overflow": buffer(size=(1 << 40, 1 << 40), stride=(1 << 40, 1)),
    "sizes beyond 64 bits": buffer(size=(1 << 100,), stride=(1,)),
    "empty with huge axes": buffer(size=(0, 1 << 63), stride=(1, 1)),
    "empty beyond the storage": buffer(size=(0,), stride=(1,), offset=7),
    "more strides than sizes": buffer(stride=(3, 1, 1)),
    "too many axes": buffer(size=(1,) * 65, stride=(1,) * 65),
    "truth values as sizes": buffer(size=many(b"\x88", b"\x88"), stride=(1, 1)),
    "fractions as sizes": buffer(size=many(b"G" + struct.pack(">d", 2.0)), stride=(1,)),
    "a list as size": buffer(size=b"]", stride=b"]"),
    "hooks": buffer(hooks=mapping(a=b"N")),
    "a flag that is none": buffer(flag=b"N"),
    "storage of 2^60 values": storage(count=1 << 60),
    "storage of 2^60 values, both counts": storage(count=1 << 60, announced=1 << 60),
    "storage of -1 values": storage(count=-1),
    "counts that disagree": storage(announced=5),
    "storage shorter than told": file(denoiser(tensor(legacy(b"\0" * 20, count=6)))),
    "bytes after the storage": file(denoiser(tensor(legacy(b"\0" * 24) + b"x"))),
    "one storage under many views": file(denoiser(_buffers=one_storage(legacy(b"\0" * 400_000), 100_000, 50))),
    "truth values of 2": buffer(
        stored=legacy(b"\2" * 6, storage=described(6, "BoolStorage"), count=6), size=(6,), stride=(1,)
    ),
}

STORAGES = {
    "wrong magic": storage(magic=integer(1234)),
    "magic as truth": storage(magic=b"\x88"),
    "wrong protocol": storage(protocol=integer(1002)),
    "big-endian": storage(writer=mapping(little_endian=b"\x89")),
    "unknown storage class": storage(storage=described(6, "QInt8Storage")),
    "storage class elsewhere": storage(storage=described(6, "FloatStorage", module="os")),
    "no storage": storage(storage=b"N"),
    "a view of a storage": storage(storage=described(6, more=many(text("a"), integer(0), integer(3)))),
    "a key too many": storage(keys=sequence(text("7"), text("8"))),
    "another key": storage(keys=sequence(text("8"))),
    "endless pickle": storage(magic=b"N0" * 10_000),
    "many instructions": storage(magic=b"N" * 10_000),
    "nothing": file(denoiser(tensor(b""))),
    "noise": file(denoiser(tensor(bytes(range(256))))),
    "legacy tar": file(denoiser(tensor(archive_of("tar")))),
    "foreign zip": file(denoiser(tensor(archive_of("zip")))),
    "zip bomb": file(
        denoiser(tensor(zipped(method=zipfile.ZIP_DEFLATED, count=25_000_000, values=b"\0" * 100_000_000)))
    ),
    "zip of fewer values": file(denoiser(tensor(zipped(values=b"\0" * 20)))),
    "zip without its values": file(denoiser(tensor(zipped({"a/data.pkl": b"\x80\x02" + described(6) + STOP})))),
    "zip, big-endian": file(
        denoiser(
            tensor(
                zipped({"a/data.pkl": b"\x80\x02" + described(6) + STOP, "a/data/7": b"\0" * 24, "a/byteorder": b"big"})
            )
        )
    ),
    "zip with many entries": file(denoiser(tensor(zipped({f"a/{k}": b"" for k in range(3000)})))),
    "zip without an end": file(denoiser(tensor(zipped()[:-1]))),
    "zip: directory length": patched_zip(("end", 12, "<I", 0xFFFFFFFF)),
    "zip: directory place": patched_zip(("end", 16, "<I", 0xFFFFFFF0)),
    "zip: fewer entries": patched_zip(("end", 10, "<H", 1)),
    "zip: more entries": patched_zip(("end", 8, "<H", 99), ("end", 10, "<H", 99)),
    "zip: entry length": patched_zip(("directory", 20, "<I", 0x7FFFFFFF), ("directory", 24, "<I", 0x7FFFFFFF)),
    "zip: entry place": patched_zip(("directory", 42, "<I", 0x7FFFFFFF)),
    "zip: encrypted": patched_zip(("directory", 8, "<H", 1)),
    "zip: compressed to the same length": patched_zip(("directory", 10, "<H", 8)),
    "zip: broken directory": patched_zip(("directory", 0, "<I", 0)),
}

NUMPY = {
    "object number": setting(call("numpy._core.multiarray", "scalar", number_type("O8", "|"), data(b"\0" * 8))),
    "object array": setting(array(kind=number_type("O8", "|"), content=sequence(shell("x")))),
    "object array of nothing": setting(array(kind=number_type("O8", "|"), content=b"]")),
    "array of a list": setting(array(content=b"]")),
    "void": setting(array(kind=number_type("V8", "|"))),
    "date": setting(array(kind=number_type("M8", "<"))),
    "text": setting(array(kind=number_type("U2", "<"))),
    "long double": setting(array(kind=number_type("f16", "<"))),
    "big-endian": setting(array(kind=number_type(order=">"))),
    "fields": setting(array(kind=number_type(fields=mapping(a=b"N")))),
    "structured by a list": setting(call("numpy", "dtype", sequence(many(text("a"), text("O"))), b"\x89", b"\x88")),
    "huge shape": setting(array(shape=(1 << 40, 1 << 40))),
    "negative shape": setting(array(shape=(-1, -2))),
    "empty huge shape": setting(array(shape=(0, 1 << 62), content=data(b""))),
    "nothing after a huge axis": setting(array(shape=(1 << 40, 0), content=data(b""))),
    "many axes": setting(array(shape=(1,) * 40)),
    "large array": setting(array(shape=(1 << 20,), content=data(b"\0" * (4 << 20)))),
    "number of the wrong length": setting(call("numpy._core.multiarray", "scalar", number_type(), data(b"\0" * 8))),
    "number of text": setting(call("numpy._core.multiarray", "scalar", number_type(), text("abcd"))),
    "array of another class": setting(
        call("numpy._core.multiarray", "_reconstruct", name("builtins", "set"), many(integer(0)), data(b"b"))
    ),
    "array never filled": setting(
        call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), many(integer(0)), data(b"b"))
    ),
    "memmap": setting(call("numpy", "memmap", text("/etc/passwd"))),
}

INSTRUCTIONS = {
    "EXT1": code(b"\x82\x01"),
    "EXT2": code(b"\x83\x01\x00"),
    "EXT4": code(b"\x84\x01\x00\x00\x00"),
    "PERSID": code(b"Pabc\n"),
    "BINPERSID": code(text("abc") + b"Q"),
    "LONG4": code(b"\x8b" + struct.pack("<i", 0x7FFFFFFF)),
    "LONG4, negative": code(b"\x8b" + struct.pack("<i", -1)),
    "LONG1 of 255 bytes": code(b"\x8a\xff" + b"\1" * 255),
    "BINUNICODE8": code(b"\x8d" + struct.pack("<Q", 1 << 62)),
    "BYTEARRAY8": code(b"\x96" + struct.pack("<Q", 1 << 62)),
    "BINBYTES8": code(b"\x8e" + struct.pack("<Q", (1 << 64) - 1)),
    "BINBYTES": code(b"B" + struct.pack("<I", 0xFFFFFFFF)),
    "BINUNICODE": code(b"X" + struct.pack("<I", 0xFFFFFFFF)),
    "FRAME": PROTO + b"\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "NEXT_BUFFER": code(b"\x97"),
    "DUP": code(b"N2"),
    "POP": code(b"NN0"),
    "STRING": code(b"S'a'\n"),
    "INT": code(b"I" + b"9" * 5000 + b"\n"),
    "no UTF-8": code(b"X\x02\x00\x00\x00\xff\xff"),
    "surrogate": code(text("\ud800")),
    "recall of nothing": code(b"h\xc8"),
    "recall far out": code(b"j\xff\xff\xff\xff"),
    "remember nothing": PROTO + b"\x94.",
    "remember a mark": PROTO + b"(\x94.",
    "pop of nothing": PROTO + b"a.",
    "tuple of nothing": PROTO + b"\x87.",
    "mark of nothing": PROTO + b"t.",
    "mark left": PROTO + b"(}.",
    "values left": PROTO + b"N}.",
    "nothing at the end": PROTO + b".",
    "a mark at the end": PROTO + b"(.",
    "no STOP": PROTO + b"}",
    "protocol 255": b"\x80\xff}.",
    "append to a tuple": code(b")Na"),
    "append to an object": code(persistent("EDMLoss") + b"Na"),
    "items of a list": code(b"]" + text("a") + b"Ns"),
    "add to a list": code(b"](N\x90"),
    "odd items": code(b"}(Nu"),
    "key twice": code(b"}" + MARK + text("a") + b"N" + text("a") + b"Nu"),
    "network twice": PROTO + b"}" + MARK + text("ema") + denoiser() + text("ema") + denoiser() + b"u.",
    "key that is a list": code(b"}]Ns"),
    "key that is a tuple": code(b"}" + b")" + b"Ns"),
    "key that is not a number": code(b"}G" + struct.pack(">d", float("nan")) + b"Ns"),
    "key of a huge integer": code(b"}" + integer((1 << 61) - 1) + b"Ns"),
    "set of lists": code(b"\x8f(]\x90"),
    "set of a list of lists": code(call("builtins", "set", sequence(b"]"))),
    "set of a number": code(call("builtins", "set", integer(1 << 40))),
}

SIZE = {
    "deep marks": PROTO + b"(" * 300_000,
    "deep lists": code(b"]" * 50_000 + b"a" * 49_999),
    "deep tuples": code(b")" + b"\x85" * 200_000),
    "deep tuples in a setting": setting(b")" + b"\x85" * 5_000),
    "deep dictionaries": code((b"}" + text("a")) * 2_000 + b"}" + b"s" * 2_000),
    "deep by another way": code(many(b")" + b"\x85" * 150 + b"q\x01", b"h\x01" + b"\x85" * 150)),
    "many values": PROTO + b"N" * 5_000_000,
    "many sets": PROTO + b"\x8f" * 5_000_000,
    "many remembered": PROTO + b"N" + b"\x94" * 2_000_000 + b".",
    "many lists": code(b"]" + MARK + b"]" * 90_000 + b"e" + b"]" + (MARK + b"]" * 90_000 + b"e") * 20),
    "doubling lists": setting(many(b"]q\x00", *[b"h\x00h\x00\x86q\x00"] * 60)),
    "doubling lists in a refusal": file(persistent("EDMPrecond", kind=many(b"]q\x00", *[b"h\x00h\x00\x86q\x00"] * 60))),
    "doubling lists in a storage's refusal": storage(protocol=many(b"]q\x00", *[b"h\x00h\x00\x86q\x00"] * 60)),
    "long paths": file(persistent("EDMPrecond", _modules=mapping(model=nested_modules(40, "a" * 200)))),
    "doubling modules": file(doubling_modules()),
    "list in itself": code(b"]q\x01h\x01a"),
    "dictionary in itself": code(b"}q\x01" + text("a") + b"h\x01s"),
    "module in itself": file(
        persistent("EDMPrecond", _modules=b"}q\x01" + text("model") + persistent("SongUNet", _modules=b"h\x01") + b"s")
    ),
    "much text": code(sequence(*[text("a" * 4000)] * 5000)),
    "many settings": setting(sequence(*[b"N"] * 60_000)),
    "many tensors": file(
        denoiser(
            _buffers=b"}" + text("a") + tensor() + b"q\x02s" + b"".join(text(f"b{k}") + b"h\x02s" for k in range(9000))
        )
    ),
    "many names": code((b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n" * 9 + b"\x85") * 50_000),
    "many storages": file(
        denoiser(
            _buffers=mapping(
                **{f"x{k}": tensor(legacy(b"\0" * 24, magic=b"N" * 90 + b"\x85" * 5)) for k in range(2000)}
                | {"x": tensor(legacy(b"", magic=b"N"))}
            )
        )
    ),
    "many absent parameters": file(
        denoiser(
            _parameters=mapping(**{f"x{k}": b"N" for k in range(40_000)}) + b"q\x04",
            _modules=b"}"
            + b"".join(text(f"m{k}") + persistent("Leaf", _parameters=b"h\x04") + b"s" for k in range(1500)),
        )
    ),
    "many modules": file(
        denoiser(
            _modules=mapping(model=persistent("SongUNet") + b"q\x03")
            + b"".join(text(f"b{k}") + b"h\x03s" for k in range(30_000))
        )
    ),
}

RECORDS = {
    "persistence version 5": file(persistent("EDMPrecond", version=5)),
    "kind of object": file(persistent("EDMPrecond", kind="function")),
    "class name with a path": file(persistent("../../EDMPrecond")),
    "class name of 10^5 letters": file(persistent("E" * 4000)),
    "source that is a number": file(persistent("EDMPrecond", source=integer(1))),
    "source that is bytes": file(persistent("EDMPrecond", source=data(b"pass"))),
    "record with more": code(
        call("torch_utils.persistence", "_reconstruct_persistent_obj", mapping(type=text("class"), evil=b"N"))
    ),
    "record that is no dictionary": code(call("torch_utils.persistence", "_reconstruct_persistent_obj", b"N")),
    "record with two arguments": code(call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}", b"}")),
    "unknown class": file(persistent("MyPrecond")),
    "no module": file(persistent("EDMPrecond", _modules=mapping(model=b"N"))),
    "module that is text": file(persistent("EDMPrecond", _modules=mapping(model=text("x")))),
    "modules that are a list": file(persistent("EDMPrecond", _modules=b"]")),
    "name with dots": file(denoiser(_buffers=mapping(**{"../../x": tensor()}))),
    "name of two modules": file(denoiser(_buffers=mapping(**{"model.x": tensor()}))),
    "name with a newline": file(denoiser(_buffers=mapping(**{"a\nb": tensor()}))),
    "empty name": file(denoiser(_buffers=mapping(**{"": tensor()}))),
    "buffer that is text": file(denoiser(_buffers=mapping(x=text("x")))),
    "parameter that is a tensor": file(denoiser(_parameters=mapping(x=tensor()))),
    "parameter of nothing": file(
        denoiser(_parameters=mapping(x=call("torch._utils", "_rebuild_parameter", b"N", b"N", b"}")))
    ),
    "passing buffers that are a list": file(denoiser(_non_persistent_buffers_set=b"]")),
    "arguments that are a tensor": setting(tensor()),
    "arguments that are an object": file(denoiser(_init_kwargs=persistent("EDMLoss"))),
    "arguments with numbered keys": file(denoiser(_init_kwargs=b"}" + integer(1) + b"Ns")),
    "storage of text": code(call("torch.storage", "_load_from_bytes", text("x"))),
    "tensor of bytes": code(call("torch._utils", "_rebuild_tensor_v2", data(b"x"), *[integer(0)] * 5)),
    "no dictionary": PROTO + b"N.",
    "TensorFlow": PROTO + call("dnnlib.tflib.network", "Network") + STOP,
}

OTHER_FILES = {
    "empty": b"",
    "one byte": b"\x80",
    "zip": archive_of("zip"),
    "tar": archive_of("tar"),
    "web page": b"\n<!DOCTYPE html><html>404</html>",
    "safetensors": struct.pack("<Q", 10) + b'{"a": 1}  ' + b"\0" * 20,
    "gzip": b"\x1f\x8b\x08\x00" + b"\0" * 30,
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "torch.save's legacy file": legacy(b"\0" * 24),
    "text": b"hello",
    "zeros": b"\0" * 10_000,
}

GROUPS = {
    "mutation": MUTATION,
    "views": VIEWS,
    "storages": STORAGES,
    "numpy": NUMPY,
    "instructions": INSTRUCTIONS,
    "size": SIZE,
    "records": RECORDS,
    "other files": OTHER_FILES,
}
