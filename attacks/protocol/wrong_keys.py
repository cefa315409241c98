"""Wrong keys: arrays under names that are not theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from attacks.attack import Attack, Option
from attacks.protocol.arrays import largest
from attacks.reply import Reply

if TYPE_CHECKING:
    from torch import Tensor

How = Literal["renamed", "missing", "extra", "swapped"]


def wrong_keys(reply: Reply, *, how: How = "renamed") -> list[Reply]:
    """Send the arrays under other names.

    Args:
        reply: What an honest client would send. Not modified.
        how: "renamed" gives the largest array a foreign name, "missing" leaves it out, "extra"
            adds an array of one zero under a foreign name. "swapped" exchanges two arrays of one
            shape that differ, the first such pair in the order of names: every name and shape is
            as it should be, so no screen can refuse it, and a server that lays arrays end to end
            in the reply's own order does not even notice a change.

    Returns:
        One reply, its words untouched.

    Raises:
        ValueError: If the reply holds no number, ``how`` is another word, or "swapped" finds no
            two different arrays of one shape.

    Source:
        The toolkit's own; no paper defines it.
    """
    name = largest(reply.arrays)
    foreign = name + ".forged"
    if how == "renamed":
        arrays = {foreign if key == name else key: one for key, one in reply.arrays.items()}
    elif how == "missing":
        arrays = {key: array for key, array in reply.arrays.items() if key != name}
    elif how == "extra":
        arrays = {**reply.arrays, foreign: reply.arrays[name].new_zeros(1)}
    elif how == "swapped":
        first, second = _pair(reply.arrays)
        arrays = {**reply.arrays, first: reply.arrays[second], second: reply.arrays[first]}
    else:
        raise ValueError(f"wrong_keys.how needs one of {', '.join(get_args(How))}: got {how!r}")
    return [Reply(arrays, reply.words)]


def _pair(arrays: Mapping[str, Tensor]) -> tuple[str, str]:
    names = sorted(arrays)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            one, other = arrays[first], arrays[second]
            if one.shape == other.shape and not one.equal(other):
                return first, second
    raise ValueError(
        f"wrong_keys.how=swapped needs two different arrays of one shape: got {len(names)} arrays "
        "without such a pair; use how=renamed"
    )


ATTACK = Attack(
    name="wrong_keys",
    summary="arrays under names that are not theirs; how=swapped passes the screen",
    source="own; the fault model is https://doi.org/10.1145/357172.357176",
    level="protocol",
    goal="refused",
    options={
        "how": Option(
            kind=str,
            default="renamed",
            choices=get_args(How),
            summary="what is wrong with them; swapped is well formed, and left to the rule",
        )
    },
    function=wrong_keys,
)
