"""The registry of rules and mixings by name, and the plan made from a name and its options."""

from collections.abc import Mapping, Sequence

from aggregators.engine.plans import Plan, Step
from aggregators.engine.rule import Rule, unknown
from aggregators.mixings import agreement, arc, bucketing, clipping, nnm
from aggregators.rules.columns import (
    bulyan,
    meamed,
    median,
    phocas,
    rlr,
    sign_majority,
    trimmed_mean,
)
from aggregators.rules.exact import mda, minimum_variance, smea
from aggregators.rules.gram import (
    caf,
    capped_spectral,
    centered_clipping,
    cge,
    dnc,
    flame,
    fltrust,
    foolsgold,
    geometric_median,
    krum,
    mean,
    multi_krum,
    norm_clip,
)

Mixing = str | Mapping[str, object]

AGGREGATORS: dict[str, Rule] = {
    "mean": mean.RULE,
    "median": median.RULE,
    "trimmed_mean": trimmed_mean.RULE,
    "krum": krum.RULE,
    "multi_krum": multi_krum.RULE,
    "geometric_median": geometric_median.RULE,
    "centered_clipping": centered_clipping.RULE,
    "mda": mda.RULE,
    "minimum_variance": minimum_variance.RULE,
    "smea": smea.RULE,
    "caf": caf.RULE,
    "capped_spectral": capped_spectral.RULE,
    "cge": cge.RULE,
    "dnc": dnc.RULE,
    "fltrust": fltrust.RULE,
    "foolsgold": foolsgold.RULE,
    "flame": flame.RULE,
    "norm_clip": norm_clip.RULE,
    "meamed": meamed.RULE,
    "phocas": phocas.RULE,
    "bulyan": bulyan.RULE,
    "sign_majority": sign_majority.RULE,
    "rlr": rlr.RULE,
}

MIXINGS: dict[str, Rule] = {
    "nnm": nnm.RULE,
    "bucketing": bucketing.RULE,
    "clipping": clipping.RULE,
    "arc": arc.RULE,
    "agreement": agreement.RULE,
}


def plan(name: str, *, mixing: Sequence[Mixing] = (), **options: object) -> Plan:
    """Look up a rule and the mixings before it, and check their options.

    Returns:
        The plan, which knows the fewest clients that it needs for an f.

    Raises:
        ValueError: If a name or an option is not one that there is, or the mixings and the rule
            do not go together.
    """
    if isinstance(mixing, str | Mapping):
        raise ValueError(f"mixing needs a sequence of names: got {mixing!r}; write ({mixing!r},)")
    rule = _look_up("aggregator", name, AGGREGATORS)
    chain = [_mixing(each) for each in mixing]
    if chain and rule.memory == "history":
        raise ValueError(
            f"{name} takes no mixing: it judges each client by its own history, and a mixed row "
            "has none; leave the mixing out"
        )
    if rule.first is not None:
        chain.append(Step(rule.first, {}))
    return Plan(tuple(chain), Step(rule, rule.check_options(options)))


def _mixing(given: Mixing) -> Step:
    options = dict(given) if isinstance(given, Mapping) else {"name": given}
    rule = _look_up("mixing", str(options.pop("name", "")), MIXINGS)
    return Step(rule, rule.check_options(options))


def _look_up(what: str, name: str, known: Mapping[str, Rule]) -> Rule:
    """Find a rule by name; an unknown name is refused with the known ones."""
    if name not in known:
        raise ValueError(unknown(what, name, known))
    return known[name]
