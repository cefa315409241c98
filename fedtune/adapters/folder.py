"""A PEFT folder behind what a recipe names: itself, or in the folder of a run."""

from __future__ import annotations

from pathlib import Path

from fedtune.recipe.beside import looked_in

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_folder(path: str, key: str) -> Path:
    """The PEFT folder behind a path: the folder itself, or ``adapter`` in a run's folder.

    Args:
        path: As a recipe has it.
        key: Of the recipe, for the message.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(path).expanduser()
    folder = folder if (folder / CONFIG).is_file() else folder / "adapter"
    if not all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
        raise FileNotFoundError(
            f"{key}: no adapter at {path}{looked_in(path)}; name a run's folder, or a PEFT one"
        )
    return folder
