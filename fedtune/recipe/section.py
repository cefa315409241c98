"""What every section of a recipe is: a frozen mapping with typed, bounded keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from fedtune.recipe.errors import guess
from fedtune.recipe.meant import refuse_quoted


class Section(BaseModel):
    """A frozen mapping that refuses keys it does not know."""

    # JSON has no infinity: without the constants it would travel as null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), ser_json_inf_nan="constants"
    )


class Named(BaseModel):
    """A section whose further keys are the options of the thing that it names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys beyond the section's own."""
        return dict(self.model_extra or {})

    def refuse_misspelt(self, known: Mapping[str, Any]) -> None:
        """Refuse an option that is near to a key of the section and is none of the thing's.

        A number in quotes is refused too, where the option takes a number.

        Raises:
            ValueError: Naming the key that was meant.
        """
        for key in set(self.options) - set(known):
            if meant := guess(key, type(self).model_fields, cutoff=0.75):
                raise ValueError(f"unknown key {key!r}; {meant}")
        refuse_quoted(self.options, known)
