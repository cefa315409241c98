"""Byzantine-robust federated fine-tuning of Hugging Face models with LoRA.

From Python: `run`, `resume`, `load_recipe`, `check`, `evaluate`, `merge`, `bench` (`fedtune.api`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtune.api import (
        bench,
        check,
        evaluate,
        load_recipe,
        merge,
        resume,
        run,
    )
    from fedtune.recipe import RecipeError
    from fedtune.records.events import RunStoppedError
    from fedtune.runs.results import RunResult, StagesResult

__version__ = "0.1.0"
__all__ = [
    "RecipeError",
    "RunResult",
    "RunStoppedError",
    "StagesResult",
    "bench",
    "check",
    "evaluate",
    "load_recipe",
    "merge",
    "resume",
    "run",
]
_ELSEWHERE = {"RecipeError": "fedtune.recipe", "RunStoppedError": "fedtune.records.events"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what is asked for then: `import fedtune` loads neither torch nor Flower."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "fedtune.api")), name)
