"""Pickles put together instruction by instruction, for files that no pickler would write."""

import io
import struct
import tarfile
import zipfile

PROTO, STOP, MARK = b"\x80\x04", b".", b"("
STATE = {"_init_args": b")", "_init_kwargs": b"}"}


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def data(value):
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value):
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + raw


def name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def many(*items):
    """A tuple."""
    return MARK + b"".join(items) + b"t"


def mapping(**items):
    return b"}" + MARK + b"".join(text(key) + value for key, value in items.items()) + b"u"


def sequence(*items):
    return b"]" + MARK + b"".join(items) + b"e"


def call(module, attribute, *arguments):
    return name(module, attribute) + many(*arguments) + b"R"


def persistent(class_name, source=None, version=6, kind="class", **state):
    source = text("pass") if source is None else source
    meta = mapping(
        type=text(kind) if isinstance(kind, str) else kind,
        version=integer(version),
        module_src=source,
        class_name=text(class_name),
        state=mapping(**(STATE | state)),
    )
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def denoiser(buffer=None, **state):
    """An EDM denoiser with one buffer ``x``, made by the instructions ``buffer``."""
    inner = persistent("SongUNet", _buffers=mapping(x=tensor() if buffer is None else buffer))
    return persistent("EDMPrecond", **({"_modules": mapping(model=inner)} | state))


def file(network=None, **others):
    """A whole file with ``network`` as its ema."""
    return PROTO + mapping(ema=denoiser() if network is None else network, **others) + STOP


def tensor(stored=None, offset=0, size=(2, 3), stride=(3, 1), flag=b"\x89", hooks=b"}"):
    """A tensor over the storage bytes ``stored``; numbers may also be given as instructions."""
    stored = legacy(b"\0" * 24) if stored is None else stored

    def number(value):
        return value if isinstance(value, bytes) else integer(value)

    def numbers(values):
        return values if isinstance(values, bytes) else many(*map(number, values))

    storage = call("torch.storage", "_load_from_bytes", data(stored))
    return call(
        "torch._utils", "_rebuild_tensor_v2", storage, number(offset), numbers(size), numbers(stride), flag, hooks
    )


def described(count, kind="FloatStorage", key="7", module="torch", more=b"N"):
    """The persistent id of a storage."""
    return many(text("storage"), f"c{module}\n{kind}\n".encode(), text(key), text("cpu"), integer(count), more) + b"Q"


def legacy(values, count=None, announced=None, **changes):
    """torch.save's legacy stream of one float32 storage, any pickle of which can be replaced."""
    count = len(values) // 4 if count is None else count
    parts = {
        "magic": integer(0x1950A86A20F9469CFC6C),
        "protocol": integer(1001),
        "writer": mapping(protocol_version=integer(1001), little_endian=b"\x88", type_sizes=b"}"),
        "storage": described(count),
        "keys": sequence(text("7")),
    } | changes
    pickles = b"".join(b"\x80\x02" + part + STOP for part in parts.values())
    return pickles + struct.pack("<q", count if announced is None else announced) + values


def zipped(entries=None, method=zipfile.ZIP_STORED, count=6, values=b"\0" * 24):
    """torch.save's zip archive of one float32 storage."""
    usual = {"archive/data.pkl": b"\x80\x02" + described(count, key="0") + STOP, "archive/byteorder": b"little"}
    entries = usual | {"archive/data/0": values} if entries is None else entries
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return buffer.getvalue()


def number_type(code="f4", order="<", fields=b"N"):
    """A numpy dtype."""
    made = call("numpy", "dtype", text(code), b"\x89", b"\x88")
    return made + many(integer(3), text(order), b"N", b"N", fields, integer(-1), integer(-1), integer(0)) + b"b"


def array(shape=(2,), kind=None, content=None, version=1):
    """A numpy array."""
    made = call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), many(integer(0)), data(b"b"))
    content = data(b"\0" * 8) if content is None else content
    kind = number_type() if kind is None else kind
    return made + many(integer(version), many(*map(integer, shape)), kind, b"\x89", content) + b"b"


def nested_modules(depth, key):
    """Modules inside one another, each under ``key``."""
    module = persistent("Leaf")
    for _ in range(depth):
        module = persistent("Branch", _modules=mapping(**{key: module}))
    return module


def doubling_modules(levels=40):
    module = persistent("Leaf") + b"q\x01"
    for _ in range(levels):
        module += persistent("Branch", _modules=mapping(a=b"h\x01", b=b"h\x01")) + b"q\x01"
    return persistent("EDMPrecond", pair=MARK + module + b"t", _modules=mapping(model=b"h\x01"))


def one_storage(stored, count, views):
    """Buffers that are all views of one storage."""
    first = call("torch.storage", "_load_from_bytes", data(stored)) + b"q\x05"
    rest = (integer(0), many(integer(count)), many(integer(1)), b"\x89", b"}")
    made = [call("torch._utils", "_rebuild_tensor_v2", b"h\x05" if k else first, *rest) for k in range(views)]
    return mapping(**{f"x{k}": tensor for k, tensor in enumerate(made)})


def archive_of(kind):
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("storages")
            info.size = 100
            archive.addfile(info, io.BytesIO(b"\0" * 100))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


def patched_zip(*changes):
    """A nested archive with fields (place, struct form, value) of its end record or ("directory", …) changed."""
    raw = bytearray(zipped())
    starts = {"end": raw.rfind(b"PK\x05\x06"), "directory": raw.find(b"PK\x01\x02")}
    for part, place, form, value in changes:
        struct.pack_into(form, raw, starts[part] + place, value)
    return file(denoiser(tensor(bytes(raw))))
