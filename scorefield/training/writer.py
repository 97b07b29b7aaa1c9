"""One background thread that writes what it is handed, so that training need not wait for the disk."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map


class Writer:
    """Runs one job at a time; what goes wrong in a job is raised by the next ``submit`` or by ``wait``."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Start ``job`` when the one before it is done; raises what that one raised, and then starts nothing."""
        self.wait()
        # not a daemon: an interpreter that ends by itself waits for it
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is under way; raises what the last job raised."""
        self.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Return when nothing is under way, and raise nothing: on the way out of another error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error


def snapshot(values: Any) -> Any:
    """Nested containers with every tensor copied to host memory: later changes of the originals do not reach it."""

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if is_traceable_wrapper_subclass(value):  # torchao's take no notice of copy=True
            names, told = value.__tensor_flatten__()
            parts = {name: copied(getattr(value, name)) for name in names}
            return type(value).__tensor_unflatten__(parts, told, value.shape, value.stride())
        return value.detach().to("cpu", copy=True)

    with torch.no_grad():
        return tree_map(copied, values)
