"""torch at its first use: a command that only looks at rules and attacks never loads it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

NAME = "torch"


class _Unloaded(ModuleType):
    """A module whose code runs when an attribute is asked for that it has not yet.

    Python's `importlib.util.LazyLoader` will not do: before 3.12 the second `import` of a module
    asks for its ``__spec__``, which already loads it there.
    """

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = spec.submodule_search_locations or []
        spec.loader.exec_module(self)
        return getattr(self, name)


def load_torch_when_used() -> None:
    """Let `import torch` wait until something of the module is asked for: it takes two seconds.

    Where torch was imported before, or is not there, nothing changes.
    """
    if NAME in sys.modules or (spec := importlib.util.find_spec(NAME)) is None:
        return
    module = _Unloaded(NAME)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    sys.modules[NAME] = module  # without __path__, so that `import torch.nn` loads the whole first
