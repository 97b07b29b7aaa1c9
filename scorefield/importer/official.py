"""What the official network pickles may name, and what comes of it.

The list is complete for stylegan2-ada-pytorch, stylegan3, edm and edm2; a file that names anything else is refused.
``torch_utils.persistence._reconstruct_persistent_obj``, which in the official code compiles and runs the text that
the file brings along, here only files that text away.
"""

import struct
from typing import Any

from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.machine import check_key
from scorefield.importer.nodes import (
    Container,
    Global,
    NumpyArray,
    NumpyType,
    Parameter,
    Persistent,
    Span,
    StorageBytes,
    View,
)
from scorefield.importer.source import Source

PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
PERSISTENCE_VERSION = 6
ORDERED_DICT = ("collections", "OrderedDict")
EASY_DICT = ("dnnlib.util", "EasyDict")
MODULE_DICT = ("torch.nn.modules.container", "ModuleDict")
TENSOR, PARAMETER = ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")
STORAGE = ("torch.storage", "_load_from_bytes")
SET, DTYPE, ARRAY = ("builtins", "set"), ("numpy", "dtype"), ("numpy", "ndarray")
SCALARS = {(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}
RECONSTRUCTS = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}

ALLOWED = {
    PERSISTENT,
    ORDERED_DICT,
    EASY_DICT,
    MODULE_DICT,
    TENSOR,
    PARAMETER,
    STORAGE,
    SET,
    DTYPE,
    ARRAY,
    *SCALARS,
    *RECONSTRUCTS,
}

FORMATS = {
    "f2": "<e",
    "f4": "<f",
    "f8": "<d",
    "i1": "<b",
    "i2": "<h",
    "i4": "<i",
    "i8": "<q",
    "u1": "<B",
    "u2": "<H",
    "u4": "<I",
    "u8": "<Q",
    "b1": "<?",
}
"""numpy dtype codes that are numbers, as ``struct`` formats; object, text, date and structured dtypes are not here."""


class OfficialTable:
    """The table of one load; it holds no state but the source, from which numpy numbers are read."""

    def __init__(self, source: Source):
        self.source = source
        self._calls = {
            PERSISTENT: self._persistent_object,
            ORDERED_DICT: self._empty,
            TENSOR: self._tensor,
            PARAMETER: self._parameter,
            STORAGE: self._storage,
            SET: self._set,
            DTYPE: self._dtype,
        }
        self._calls |= dict.fromkeys(SCALARS, self._scalar) | dict.fromkeys(RECONSTRUCTS, self._array)

    def find(self, module: str, name: str) -> Global:
        """The stand-in for an allowed name; ImportRefused for all others."""
        if (module, name) in ALLOWED:
            return Global(module, name)
        if module.startswith("dnnlib.tflib") or (name == "Network" and "tf" in module):
            raise ImportRefused(
                "it is a TensorFlow-era network (dnnlib.tflib); convert it once with legacy.py of NVIDIA's "
                "stylegan2-ada-pytorch (legacy.py --source=OLD.pkl --dest=NEW.pkl) and import the result"
            )
        raise ImportRefused(
            f'it names "{shown(module)}.{shown(name)}", which no official network file does; nothing of it was run'
        )

    def call(self, function: Global, arguments: tuple) -> Any:
        """REDUCE."""
        handler = self._calls.get((function.module, function.name))
        if handler is None:
            raise ImportRefused(f"it calls {function}, which official files only name")
        return handler(arguments)

    def new(self, kind: Global, arguments: tuple) -> Any:
        """NEWOBJ: an empty object of one of three kinds."""
        pair = (kind.module, kind.name)
        if pair not in (EASY_DICT, ORDERED_DICT, MODULE_DICT) or arguments:
            raise ImportRefused(f"it makes an object of {kind} in a way that official files do not")
        return Container() if pair == MODULE_DICT else {}

    def build(self, target: Any, state: Any) -> None:
        """BUILD: the attributes of a container, a dtype's byte order, an array's contents; each once."""
        if type(target) is Container and target.state is None and type(state) is dict:
            check_attributes(state, "ModuleDict")
            target.state = state
        elif type(target) is NumpyType and not target.little:
            self._byte_order(target, state)
        elif type(target) is NumpyArray and target.type is None:
            self._fill_array(target, state)
        else:
            raise ImportRefused(f"it sets attributes on a {type(target).__name__} in a way that official files do not")

    def persistent(self, identity: Any) -> Any:
        """BINPERSID outside a storage."""
        raise ImportRefused("it refers to an object outside the file (a persistent id)")

    # ------------------------------------------------------------------ objects

    @staticmethod
    def _persistent_object(arguments: tuple) -> Persistent:
        meta = arguments[0] if len(arguments) == 1 else None
        names = {"type", "version", "module_src", "class_name", "state"}
        if type(meta) is not dict or set(meta) != names:
            raise ImportRefused("an embedded object's record does not have its five official entries")
        if meta["type"] != "class" or type(meta["version"]) is not int or meta["version"] != PERSISTENCE_VERSION:
            raise ImportRefused(
                f"an embedded object has persistence version {shown(meta['version'])} and type "
                f'"{shown(meta["type"])}"; version {PERSISTENCE_VERSION} and type "class" can be read'
            )
        name, text, state = meta["class_name"], meta["module_src"], {} if meta["state"] is None else meta["state"]
        if type(name) is not str or not name.isidentifier() or len(name) > 100:
            raise ImportRefused(f'"{shown(name)}" is no class name')
        if not (type(text) is str or (type(text) is Span and text.is_text)) or type(state) is not dict:
            raise ImportRefused(f"the embedded {name} has a source that is no text or a state that is no dictionary")
        check_attributes(state, name)
        return Persistent(name, text, state)

    @staticmethod
    def _empty(arguments: tuple) -> dict:
        if arguments:
            raise ImportRefused("an OrderedDict is made from arguments, which official files do not do")
        return {}

    @staticmethod
    def _set(arguments: tuple) -> set:
        if len(arguments) != 1 or type(arguments[0]) is not list:
            raise ImportRefused("a set is made from something other than a list")
        for key in arguments[0]:
            check_key(key)
        return set(arguments[0])

    # ------------------------------------------------------------------ tensors

    @staticmethod
    def _storage(arguments: tuple) -> StorageBytes:
        if len(arguments) != 1 or type(arguments[0]) is not Span or arguments[0].is_text:
            raise ImportRefused("a tensor's storage is made from something other than bytes")
        return StorageBytes(arguments[0])

    @staticmethod
    def _tensor(arguments: tuple) -> View:
        if len(arguments) != 6 or type(arguments[0]) is not StorageBytes:
            raise ImportRefused("a tensor's record does not have its six official entries")
        storage, offset, size, stride, requires_grad, hooks = arguments
        if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
            raise ImportRefused("a tensor's record has hooks or a gradient flag that official files do not have")
        return View(storage, offset, size, stride)

    @staticmethod
    def _parameter(arguments: tuple) -> Parameter:
        if len(arguments) != 3 or type(arguments[0]) is not View:
            raise ImportRefused("a parameter's record does not have its three official entries")
        view, requires_grad, hooks = arguments
        if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
            raise ImportRefused("a parameter's record has hooks or a gradient flag that official files do not have")
        return Parameter(view)

    # ------------------------------------------------------------------ numpy

    @staticmethod
    def _dtype(arguments: tuple) -> NumpyType:
        code = arguments[0] if len(arguments) == 3 and type(arguments[0]) is str else None
        if code not in FORMATS or any(type(a) not in (int, bool) for a in arguments[1:]):
            raise ImportRefused(f'the numpy dtype "{shown(code)}" is no plain number')
        return NumpyType(code)

    @staticmethod
    def _byte_order(target: NumpyType, state: Any) -> None:
        plain = type(state) is tuple and len(state) == 8 and state[2:5] == (None, None, None)
        if not plain or state[0] != 3 or state[1] not in ("<", "|", "="):
            raise ImportRefused("a numpy dtype has fields, a shape or a byte order that official files do not have")
        target.little = True

    def _scalar(self, arguments: tuple) -> Any:
        kind, span = arguments if len(arguments) == 2 else (None, None)
        if type(kind) is not NumpyType or type(span) is not Span or span.is_text:
            raise ImportRefused("a numpy number is made from something other than a dtype and bytes")
        form = FORMATS[kind.code]
        if span.length != struct.calcsize(form):
            raise ImportRefused(f"a numpy number of dtype {kind.code} has {span.length} bytes")
        return struct.unpack(form, self.source.read(span.offset, span.length))[0]

    def _array(self, arguments: tuple) -> NumpyArray:
        kind, shape, code = arguments if len(arguments) == 3 else (None, None, None)
        plain = type(kind) is Global and (kind.module, kind.name) == ARRAY and shape == (0,)
        if not plain or type(code) is not Span or code.length != 1:
            raise ImportRefused("a numpy array begins in a way that official files do not use")
        return NumpyArray()

    @staticmethod
    def _fill_array(target: NumpyArray, state: Any) -> None:
        _, shape, kind, fortran, span = state if type(state) is tuple and len(state) == 5 else (None,) * 5
        if type(kind) is not NumpyType or type(span) is not Span or span.is_text or type(fortran) is not bool:
            raise ImportRefused("a numpy array's contents are something other than a dtype and bytes")
        if type(shape) is not tuple or len(shape) > limits.DIMENSIONS:
            raise ImportRefused(f"a numpy array has more than {limits.DIMENSIONS} axes or no shape")
        count = struct.calcsize(FORMATS[kind.code])
        for axis in shape:
            if type(axis) is not int or axis < 0:
                raise ImportRefused("a numpy array has an axis that is no length")
            count *= axis
        if count != span.length:
            raise ImportRefused(f"a numpy array's shape wants {count} bytes and {span.length} are there")
        target.type, target.shape, target.fortran, target.span = kind, shape, fortran, span


def check_attributes(state: dict, owner: str) -> None:
    """Attributes have names, and none that Python gives a meaning of its own (``__class__``, ``__reduce__``)."""
    for name in state:
        if type(name) is not str or (name.startswith("__") and name.endswith("__")):
            raise ImportRefused(f'the state of {owner} sets "{shown(name)}", which is no attribute of a network')
