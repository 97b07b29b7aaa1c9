"""Writers of pickles in the form of the official ones, from random weights.

The official code pickles an object as a call of ``torch_utils.persistence._reconstruct_persistent_obj`` with a record
of class name, source text and attributes. Here modules with chosen names, weights and attributes reduce in that way;
the modules of the official packages exist only while a file is written.
"""

import contextlib
import io
import pickle
import sys
import types

import torch
from torch import nn

SOURCE = "raise RuntimeError('the embedded source was run')\n" + "# filling\n" * 1000


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called the real name")


class EasyDict(dict):
    pass


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
_reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
EasyDict.__module__ = "dnnlib.util"


@contextlib.contextmanager
def official_names():
    """torch_utils.persistence and dnnlib.util, for the time of writing."""
    made = {
        name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    made["dnnlib.util"].EasyDict = EasyDict
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class Persistent:
    """Mixin: reduces as the official decorator makes it."""

    text = SOURCE
    version = 6

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": self.version,
            "module_src": self.text,
            "class_name": type(self).__name__,
            "state": dict(self.__dict__),
        }
        return _reconstruct_persistent_obj, (meta,), None

    def __reduce_ex__(self, protocol):
        return self.__reduce__()


class PersistentModule(Persistent, nn.Module):
    pass


class PersistentObject(Persistent):
    pass


def module(
    name, args=(), kwargs=None, parameters=None, buffers=None, passing=None, children=None, record=True, **public
):
    """An ``nn.Module`` of class ``name`` with these parts; shapes stand for random float32 tensors."""
    made = type(name, (PersistentModule,), {})()
    made.__dict__.update(public)
    for key, value in (parameters or {}).items():
        made.register_parameter(key, None if value is None else nn.Parameter(tensor(value)))
    for key, value in (buffers or {}).items():
        made.register_buffer(key, tensor(value))
    for key, value in (passing or {}).items():
        made.register_buffer(key, tensor(value), persistent=False)
    for key, value in (children or {}).items():
        made.add_module(key, value)
    made._init_args = tuple(args) if record else None
    made._init_kwargs = (kwargs or {}) if record else None
    return made


def tensor(value):
    """A tensor as it is, or a random one of a shape."""
    return value if isinstance(value, torch.Tensor) else torch.randn(tuple(value))


def plain_object(name, **public):
    """A persistent object that is no module (a loss, an encoder)."""
    made = type(name, (PersistentObject,), {})()
    made.__dict__.update(public, _init_args=(), _init_kwargs={})
    return made


class Writer(pickle._Pickler):
    """The Python pickler, whose storages can be nested as zip archives instead of the legacy layout."""

    zipped = False

    def reducer_override(self, obj):
        if isinstance(obj, torch.storage.TypedStorage):
            buffer = io.BytesIO()
            torch.save(obj, buffer, _use_new_zipfile_serialization=self.zipped)
            return torch.storage._load_from_bytes, (buffer.getvalue(),)
        return NotImplemented


def dump(path, value, protocol=4, zipped=False):
    """Write ``value`` to ``path`` as the official code would; returns the path."""
    with official_names(), open(path, "wb") as file:
        if zipped:
            writer = Writer(file, protocol)
            writer.zipped = True
            writer.dump(value)
        else:
            pickle.dump(value, file, protocol)
    return path
