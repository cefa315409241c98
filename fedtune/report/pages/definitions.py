"""What the words of a bench's page mean."""

from __future__ import annotations

from fedtune.records.bench_summary import HOLDS, STOPPED

WORDS = (
    (
        "Retained gain",
        "(base − attacked) / (base − oracle), in held-out loss, rounded down. The oracle is the "
        "mean of the honest clients alone, the attackers absent, with the same seed. 1: the attack "
        "does nothing. 0: as if never trained. Below 0: worse than not training.",
    ),
    (
        "Holds",
        f"A defence holds against an attack if it retains at least {HOLDS:g} and, against a "
        f"backdoor, the backdoor succeeds in at most {100 * STOPPED:.0f} % more of the prompts "
        "than are answered so without it (in older results: than before training). A backdoor's "
        "cell has the colour of the worse of the two.",
    ),
    (
        "Worst case",
        "What a defence keeps under the attack that leaves least: of the gain or, where that is "
        "less, of the trigger's silence, 1 − (obeyed − the same without it). A run that broke off "
        "(stopped) counts as 0 there. One that diverged counts as worse than any: its loss is no "
        "finite number, or it broke off when it was worse than untrained. A cell's own number is "
        "the mean of the seeds that are done.",
    ),
    (
        "The choice",
        "Of the defences that were measured against everything: the one that holds against most "
        "attacks, counted over all tables; of those the best worst case; then the lowest tax.",
    ),
    (
        "Tax",
        "What the defence costs with no attacker: the share that it loses of the gain of the plain "
        "mean of all.",
    ),
    (
        "Floor",
        "The backdoor that no rule can stop: attackers train as they are asked, on rows poisoned "
        "at 25, 50 or 100 %, and send the result unchanged to the plain mean of all. Of the three "
        "rates the worst counts. “+5 over the floor”: five points more than that, at the end or in "
        "the round of the most.",
    ),
    (
        "Re-optimised",
        "The attack's parameters are searched anew against each defence. The others are as they "
        "were tuned elsewhere: a defence may look better against them than it is.",
    ),
    (
        "f",
        "How many Byzantine clients the server assumes, a setting of the rule. The rule is never "
        "told how many there are, nor which.",
    ),
    ("±", "Half of the 95 % t-interval over seeds, paired by seed."),
    (
        "Refused",
        "Of replies against the protocol (a wrong shape, size or content), how many the screen "
        "turned away. Beside it stands the gain that was kept.",
    ),
    ("Cannot run", "The rule refuses this f among so many clients."),
    ("Left out", "The attack has no meaning in this setting."),
)
