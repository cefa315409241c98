"""From a name or a path to a recipe: find the YAML, read it strictly, lay overrides on top."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import fedtune
from fedtune.recipe.beside import read_shipped, read_with_paths, with_paths
from fedtune.recipe.data import EMBEDDED, Source
from fedtune.recipe.errors import RecipeError, explain, nearest
from fedtune.recipe.reading import read_mapping, read_text, write_text
from fedtune.recipe.reward import ModelReward
from fedtune.recipe.schema import Recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with fedtune, by name (`quickstart`, `qwen3-0.6b/sft`)."""
    return {name: path for name, path in _shipped().items() if not _is_bench(path)}


def shipped_benches() -> dict[str, Path]:
    """The benches that come with fedtune, by name: matrices of runs, for `fedtune bench`."""
    return {name: path for name, path in _shipped().items() if _is_bench(path)}


def _shipped() -> dict[str, Path]:
    package = Path(fedtune.__file__).parent
    for root in (package / "recipes", package.parent / "recipes"):
        if root.is_dir():
            found = sorted(root.rglob("*.yaml"))
            return {str(path.relative_to(root).with_suffix("")): path for path in found}
    return {}


def _is_bench(path: Path) -> bool:
    return path.name.startswith("bench_")


def find_recipe(name: str) -> Path:
    """The file behind a path or the name of a shipped recipe.

    Raises:
        RecipeError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    where = f" in {Path.cwd()}" if not path.is_absolute() else ""
    raise RecipeError(
        [f"{name}: no such file{where}, and no shipped recipe; {nearest(name, shipped)}"]
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe by path or name; what lies beside a file of one's own has its whole path.

    Raises:
        RecipeError: If there is none, or it is not readable, or no mapping.
    """
    path = find_recipe(name)
    return read_with_paths(path) if Path(name).is_file() else read_shipped(path)


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by path or name, with `section.key=value` overrides laid on top.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    raw = read_recipe(name)
    for override in overrides:
        lay_over(raw, override)
    return parse_recipe(with_paths(raw, here_first=True))


def parse_recipe(raw: Mapping[str, Any] | str) -> Recipe:
    """Validate a mapping, or the JSON string in which a recipe travels.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    if isinstance(raw, Mapping) and "stages" in raw:
        raise RecipeError(["stages: needs one recipe here: got several; name the folder of one"])
    try:
        if isinstance(raw, str):
            return Recipe.model_validate_json(raw)
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise explain(error, Recipe) from error


def to_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that `load_recipe` reads back."""
    return write_text(recipe.model_dump(mode="json"))


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its local model, data and adapters named so as to be found from anywhere.

    What is not here is a name of the hub's, and stays. So does a pattern with stars in a folder's
    name, which is looked for from the working folder.
    """
    data = recipe.data
    sources: dict[str, Any] = {"source": _placed(data.source)}
    if data.eval_source is not None:
        sources["eval_source"] = _placed(data.eval_source)
    changes: dict[str, Any] = {"data": data.model_copy(update=sources)}
    if recipe.federation.deployment is not None:
        there = {"deployment": recipe.federation.deployment.expanduser().absolute()}
        changes["federation"] = recipe.federation.model_copy(update=there)
    recipe = recipe.model_copy(update=changes)
    return with_folders(recipe, lambda path: _absolute(path) if _is_folder(path) else path)


def with_folders(recipe: Recipe, place: Callable[[str], str]) -> Recipe:
    """The recipe with other folders for the model and the adapters that it names.

    Args:
        recipe: Any.
        place: From what the recipe says to the folder to be put there; hub names come too.
    """
    start, reference, model = recipe.initial_adapter, recipe.reference, recipe.model
    changes: dict[str, Any] = {
        "rewards": [
            reward.model_copy(update={"adapter": place(reward.adapter)})
            if isinstance(reward, ModelReward)
            else reward
            for reward in recipe.rewards
        ]
    }
    if model.name_or_path != "nano":
        changes["model"] = model.model_copy(update={"name_or_path": place(model.name_or_path)})
    if start is not None:
        changes["initial_adapter"] = place(start)
    if reference not in {"base", "initial_adapter"}:
        changes["reference"] = place(reference)
    return recipe.model_copy(update=changes)


def read_run_recipe(folder: Path) -> Recipe:
    """The recipe in a run's folder, wherever that lies now.

    A stage names folders beside its own; where these were moved along, they are found there.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    folder = folder.expanduser().absolute()
    recipe = parse_recipe(read_mapping(folder / "recipe.yaml"))
    began, here = recipe.output_dir.parent, folder.parent

    def place(path: str) -> str:
        if not Path(path).is_relative_to(began) or Path(path).exists():
            return path
        beside = here / Path(path).relative_to(began)
        return str(beside) if beside.exists() else path

    return with_folders(recipe, place).model_copy(update={"output_dir": folder})


def _is_folder(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def _is_path(source: str) -> bool:
    path = Path(source).expanduser()
    return source not in EMBEDDED and (path.is_dir() or (path.is_file() and path.suffix != ""))


def _placed(source: str | Source) -> str | Source:
    if isinstance(source, Source):
        return _with_absolute_files(source)
    return _absolute(source) if _is_path(source) else source


def _with_absolute_files(source: Source) -> Source:
    files = source.data_files
    if Path(source.path).is_dir() and ("/" in source.path or not files):  # else `json` and the like
        return source.model_copy(update={"path": str(Path(source.path).absolute())})
    if isinstance(files, str):
        files = _absolute_if_here(files)
    elif files:
        files = [_absolute_if_here(file) for file in files]
    return source.model_copy(update={"data_files": files})


def _absolute_if_here(file: str) -> str:
    path = Path(file).absolute()
    here = "://" not in file and (path.is_file() or any(path.parent.glob(path.name)))
    return str(path) if here else file


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def lay_over(raw: dict[str, Any], override: str) -> None:
    """Set ``section.key=value`` in a mapping read from YAML.

    Raises:
        RecipeError: If the text has another form, or a section on the way is a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError([f"{override}: needs the form section.key=value"])
    try:
        value = read_text(text)
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError([f"{key}: {text!r} is not readable as YAML: {error}"]) from error
    set_key(raw, key.strip(), value)


def set_key(raw: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401  as YAML has it
    """Set a dotted key in a mapping, making the sections on the way.

    Raises:
        RecipeError: If a section on the way is a value.
    """
    *sections, last = key.split(".")
    target = raw
    for section in sections:
        inner = target.get(section)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise RecipeError([f"{key}: {section} is a value, not a section"])
        target[section] = inner
        target = inner
    target[last] = value
