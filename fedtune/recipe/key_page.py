"""The page docs/keys.md: every key of a recipe, section by section."""

from __future__ import annotations

from collections.abc import Iterable

from fedtune.recipe.reference import Key, keys

_HEAD = """# Keys

Written by `make docs` from the schema of recipes; `fedtune explain SECTION.KEY` prints the same of
one key, `fedtune explain SECTION` of a section. An example is what may follow `fedtune check
quickstart` on a command line. The keys under `train` are TRL's own: `fedtune explain
train.learning_rate` prints what the installed TRL says of one. The options of rules and attacks
stand on their own pages: [rules](aggregators.md), [attacks](attacks.md)."""
_TABLE = ("| key | meaning | value | default | example |", "|---|---|---|---|---|")


def keys_as_markdown() -> str:
    """A table of all sections' keys, each section under its own head."""
    known = keys()
    at_the_top = [key for name, key in known.items() if "." not in name and not key.is_section]
    parts = [_HEAD, "## At the top", _table(at_the_top)]
    for section in (key for key in known.values() if key.is_section):
        inner = [key for name, key in known.items() if name.rpartition(".")[0] == section.name]
        parts += [f"## {section.name}", _sentence(section)]
        rewards = [key for name, key in known.items() if name.startswith("rewards.")]
        parts.append(_table(rewards if section.name == "rewards" else inner))
    return "\n\n".join(parts) + "\n"


def facts_of_key(key: Key) -> dict[str, str]:
    """What there is to say of a key beyond its meaning, label -> words."""
    facts = {
        "value": key.kind,
        "bounds": key.bounds,
        "unit": key.unit,
        "default": key.default,
        "example": key.example,
    }
    return {label: words for label, words in facts.items() if words}


def _sentence(section: Key) -> str:
    default = f" Default: {section.default}." if section.default else ""
    example = f" Example: `{section.example}`." if section.example else ""
    return f"{section.meaning.rstrip('.')}.{default}{example}"


def _table(entries: Iterable[Key]) -> str:
    lines = list(_TABLE)
    for key in entries:
        value = "; ".join(filter(None, [key.kind, key.bounds, key.unit]))
        is_words = key.default in {"", "needed", "none"} or "; " in key.default
        default = key.default if is_words else f"`{key.default}`"
        example = f"`{key.example}`" if key.example else ""
        cells = (f"`{key.name}`", key.meaning, value, default, example)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)
