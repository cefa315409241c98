"""Notes on a recipe that is valid: what may be unwise in it."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from attacks.updates.alie import z_max
from fedtune.recipe import Recipe
from fedtune.runs.checks.weightless import most_weightless

_NAMED = 4  # modules


def find_risks(recipe: Recipe) -> list[str]:
    """Notes on a recipe that is in order, a line each."""
    looks = (_assumed_attackers, _stopped, _silenced, _weights, _costs, _harmless, _steady_gain)
    return [risk for look in looks for risk in look(recipe)]


def notes_on_rows(recipe: Recipe) -> list[str]:
    """What was seen in modules, and in rows that can be trained on but for a network's nodes'."""
    notes = list(_bare(recipe))
    if recipe.federation.deployment is not None:
        return notes
    from fedtune.runs.checks.rows import look_at_rows

    return [*notes, *look_at_rows(recipe).notes]


def _bare(recipe: Recipe) -> Iterator[str]:
    """Linear layers that all-linear does not reach."""
    from fedtune.training.adapted import left_bare

    if names := left_bare(recipe):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield (
            f"lora.target_modules: all-linear leaves {len(names)} linear layers of the model "
            f"without an adapter: {', '.join(names[:_NAMED])}{more}; to reach them, name modules "
            f"in a list"
        )


def _assumed_attackers(recipe: Recipe) -> list[str]:
    """Where f is less than the number of attackers, or 0."""
    attackers = recipe.attack.num_attackers if recipe.attack else 0
    federation, rule, f = recipe.federation, recipe.aggregator.name, recipe.aggregator.f
    risks = []
    if attackers and federation.sample_size < federation.num_clients:
        chance = chance_of_more(attackers, federation.num_clients, federation.sample_size, f)
        if chance > 0:
            risks.append(
                f"with {attackers} attackers among {federation.num_clients} clients, a sample of "
                f"{federation.sample_size} holds more than f={f} of them in {chance:.1%} of rounds"
            )
    elif attackers > f:
        risks.append(f"the rule assumes f={f} attackers; the simulation has {attackers}")
    if f == 0 and rule == "mean":
        risks.append("the mean withstands no attacker; name a robust rule where one may come")
    elif f == 0:
        risks.append(
            f"aggregator.f: {rule} at f=0 withstands no attacker; raise f, for which it may "
            f"need more clients"
        )
    return risks


def _stopped(recipe: Recipe) -> list[str]:
    """Where f silent clients leave the rule too few: f is not lowered for who is absent."""
    n, f, section = recipe.federation.sample_size, recipe.aggregator.f, recipe.aggregator

    def withstands(f: int) -> bool:
        return section.fitted(n - f, f).plan().is_defined(n - f, f)

    if withstands(f):
        return []
    lower = next(each for each in range(f - 1, -1, -1) if withstands(each))
    least = section.fitted(n - f, f).plan().min_clients(f)
    other = f", or name capped_spectral, which needs {2 * f + 1}" if n >= 3 * f + 1 else ""
    return [
        f"aggregator.f: {f} silent clients of {n} leave {n - f} replies, and {section.name} at "
        f"f={f} needs {least}: they can stop this run; lower f to {lower}{other}"
    ]


def _silenced(recipe: Recipe) -> list[str]:
    """Where more than f honest clients can have no part in a round."""
    n, f, section = recipe.federation.sample_size, recipe.aggregator.f, recipe.aggregator
    most = most_weightless(recipe)
    if f == 0 or most <= f:
        return []
    chain = " + ".join([*section.mixing_names, section.name])
    chain += " + suspicion" if recipe.defence.suspicion is not None else ""
    return [
        f"aggregator: {chain} can leave up to {most} of {n} clients without weight in a round, "
        f"more than f={f}: the honest ones whose data are unlike the others' go first; "
        f"capped_spectral alone leaves out at most f"
    ]


def _costs(recipe: Recipe) -> list[str]:
    """What costs more than it looks, or is paid for and not used."""
    risks = []
    if recipe.aggregator.combined_by == "dense":
        risks.append(
            "aggregator.combination: dense works on BA itself: a round costs n d_out d_in numbers "
            "for each module, where the factors have n r (d_out + d_in), and an SVD of what the "
            "rule makes of them; it knows no weights of clients, so none is seen to be dropped"
        )
    used = recipe.aggregator.takes_reference or recipe.defence.server_data
    if recipe.data.server_rows and not used:
        risks.append(
            f"data.server_rows: neither {recipe.aggregator.name} nor defence.server_data looks at "
            f"them: no one will learn from its {recipe.data.server_rows} rows"
        )
    if recipe.defence.momentum is not None:
        risks.append(
            "defence.momentum: the server keeps a row of the adapter's size for each client, in "
            "memory and in every checkpoint"
        )
    return risks


def _steady_gain(recipe: Recipe) -> list[str]:
    """How often the outer momentum applies what it was given."""
    outer = recipe.outer
    if outer.name != "nesterov":
        return []
    lr, momentum = outer.rates
    gain = lr / (1 - momentum)
    if gain <= 2:
        return []
    return [
        f"outer: the steady gain lr/(1-momentum) is {gain:.1f}: a poisoned aggregate ends up "
        f"applied so many times; runs of few rounds want momentum <= 0.5"
    ]


def _weights(recipe: Recipe) -> list[str]:
    """What the owner's own weights let a single client do."""
    weights = recipe.aggregator.client_weights
    if weights is None or len(set(weights)) == 1:
        return []
    heaviest = max(range(len(weights)), key=weights.__getitem__)
    return [
        f"aggregator.client_weights: an attacker counts as much as its weight, while f counts "
        f"clients: client {heaviest} alone has {weights[heaviest] / sum(weights):.1%} of all"
    ]


def _harmless(recipe: Recipe) -> list[str]:
    """ALIE with the z of its paper, where so few attackers make it harmless."""
    attack, n = recipe.attack, recipe.federation.sample_size
    if attack is None or attack.name != "alie" or attack.options.get("z") is not None:
        return []
    attackers = min(attack.num_attackers, n)
    if attackers == 0 or (z := z_max(n, attackers)) > 0:
        return []
    return [
        f"attack: alie's own z at {attackers} attackers of {n} is {z:.2f}: it harms no one and "
        f"proves no defence; set attack.z, 1.5 say"
    ]


def chance_of_more(attackers: int, clients: int, sample: int, f: int) -> float:
    """Probability that a sample holds more than f attackers: a hypergeometric tail."""
    most = min(attackers, sample)
    hits = sum(
        comb(attackers, k) * comb(clients - attackers, sample - k)
        for k in range(f + 1, most + 1)
        if sample - k <= clients - attackers
    )
    return hits / comb(clients, sample)
