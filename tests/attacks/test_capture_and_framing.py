"""The attacks that push from behind the honest mean, at numbers that are worked by hand.

Not proven here: what they do to a model; docs/results says that.
"""

import pytest
import torch
from hand_span import spanned

import attacks
from attacks import Scene, Search
from attacks.updates.framing import easiest
from attacks.updates.past_trial import longest_passing

# mean (1, 1, 0), lengths 2 and 2
HONEST = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
# mean (1, 1, 3): less the honest mean (0, 0, 3), at the honest length T = (0, 0, 2)
OWN = torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 4.0]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sent(name, honest=HONEST, own=OWN, scene=None, **options):
    return attacks.craft(
        honest, name, num_attackers=len(own), own=own, generator=seeded(),
        scene=scene or Scene(), **options,
    )  # fmt: skip


def test_capture_is_the_mean_and_the_direction():
    assert torch.allclose(sent("capture", mean=1.0, length=0.5), torch.tensor([1.0, 1.0, 1.0]))
    # against the mean: T = -(1, 1, 0) / sqrt(2) * 2, so mean * 0 + length sqrt(2) = (-2, -2, 0)
    away = sent("capture", towards="against", mean=0.0, length=2**0.5)
    assert torch.allclose(away, torch.tensor([-2.0, -2.0, 0.0]))


def test_the_odd_one_is_pushed_away_from_what_sets_it_apart():
    # Cosines with the mean of the others: row 2 with (2, .5, 0) the least, 0. It is (0, 0, 2), so
    # T = (2, .5, -2), brought to the median length 2; the mean in front is left out.
    honest = torch.tensor([[2.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    rows = sent("capture", honest=honest, towards="odd", mean=0.0, length=1.0)
    aim = torch.tensor([2.0, 0.5, -2.0])
    assert torch.allclose(rows, 2.0 * aim / aim.norm())
    with pytest.raises(ValueError, match="needs two honest updates: got 1"):
        sent("capture", honest=honest[:1], towards="odd")


def test_a_random_direction_is_drawn_once():
    memory: dict[str, torch.Tensor] = {}
    first = sent("capture", scene=Scene(memory=memory), towards="random", mean=0.0)
    again = attacks.craft(
        HONEST, "capture", num_attackers=2, own=OWN, generator=seeded(7), towards="random",
        mean=0.0, scene=Scene(round_=2, memory=memory),
    )  # fmt: skip
    assert torch.equal(first, again)
    assert torch.allclose(first.norm(dim=1), torch.tensor(2.0))


def test_nothing_learnt_is_nowhere_to_push():
    own = torch.tensor([[1.0, 1.0, 0.0]])  # the honest mean itself
    assert torch.allclose(sent("capture", own=own, length=5.0), own)


def test_who_agrees_least_is_framed_first():
    # Cosines of rows 0..3 with the others: 0 and 1 agree (0.8) and neither 2 nor 3 with them (0);
    # 2 and 3 disagree (-0.6). One attacker at -1 in front, medians of four: row 0 of
    # -1 0 0 .8 is 0; row 2 of -1 -.6 0 0 is -.3. So 2 and 3 come first.
    gram = torch.eye(4, dtype=torch.float64)
    gram[0, 1] = gram[1, 0] = 0.8
    gram[2, 3] = gram[3, 2] = -0.6
    assert easiest(gram, 1) == [2, 3, 0, 1]
    assert easiest(9 * gram, 1) == [2, 3, 0, 1]


def test_framing_sides_with_the_others():
    # Three orthogonal rows of length 2 and a fourth that leans against the first: 0 and 3 agree
    # least. Framed: one, the first of them. Others' shares 1/3, the framed one's -bite/3.
    honest = 2 * torch.eye(4)[:3]
    honest = torch.cat([honest, torch.tensor([[-1.2, 0.0, 0.0, 1.6]])])
    own = honest.mean(0, keepdim=True)
    row = sent("framing", honest, own, framed=1, bite=0.5, length=0.0)[0]
    expected = honest[[1, 2, 3]].sum(0) / 3 - 0.5 * honest[0] / 3
    assert torch.allclose(row, expected)
    assert float(row @ honest[0]) < 0
    assert all(float(row @ each) > 0 for each in honest[1:])


def test_a_framed_client_is_left_out_by_agreement():
    """Nearly orthogonal honest rows: alone, agreement keeps all; three attackers cost two."""
    honest = torch.randn(7, 400, generator=seeded(5), dtype=torch.float64)
    own = honest[:3] + torch.randn(3, 400, generator=seeded(6), dtype=torch.float64)
    scene = Scene(span=spanned(honest, "caf", f=3, mixing=["agreement"]),
                  search=Search(evaluations=300))  # fmt: skip
    rows = sent("framing", honest, own, scene)
    import aggregators

    weights = aggregators.aggregate_with_report(
        torch.cat([honest, rows]), "caf", f=3, mixing=["agreement"]
    ).weights
    assert int((weights[:7] == 0).sum()) >= 2
    assert float(weights[7:].sum()) > 3 / 7


def test_the_denoised_direction_is_the_mean_over_rounds():
    # Round 1 taught a = (0, 0, 3), round 2 taught b = (3, 0, 0). At memory 1/2 the means are 1/2 a
    # and then 1/4 a + 1/2 b, over 1 - 1/4: a/3 + 2b/3 = (2, 0, 1), at length 2: times 2/sqrt(5).
    memory: dict[str, torch.Tensor] = {}
    options = {"memory": 0.5, "mean": 0.0, "length": 1.0}
    first = sent("denoised_backdoor", scene=Scene(memory=memory), **options)
    assert torch.allclose(first, torch.tensor([0.0, 0.0, 2.0]))
    own = HONEST.mean(0, keepdim=True) + torch.tensor([[3.0, 0.0, 0.0]])
    second = Scene(round_=2, memory=memory)
    for _ in range(2):  # a round tried again counts once
        rows = sent("denoised_backdoor", own=own, scene=second, **options)
    assert torch.allclose(rows, torch.tensor([2.0, 0.0, 1.0]) * 2 / 5**0.5)


def test_a_round_without_attack_teaches_as_one_with():
    attacked, watched = {}, {}
    sent("denoised_backdoor", scene=Scene(memory=attacked))
    attacks.watch(HONEST, "denoised_backdoor", own=OWN, scene=Scene(memory=watched))
    assert attacked.keys() == watched.keys()
    assert all(torch.equal(attacked[key], watched[key]) for key in attacked)
    attacks.watch(HONEST, "ipm", own=OWN, scene=Scene(memory=(nothing := {})))
    assert nothing == {}


def test_the_longest_that_passes():
    # 4 and its halves until 1/8: 4 no, 2 no, 1 no, .5 .75 .875 yes
    assert longest_passing(lambda length: length < 1, most=4.0) == 0.875
    assert longest_passing(lambda length: True, most=4.0) == 4.0
    assert longest_passing(lambda length: False, most=4.0) == 0.0


def test_past_the_trial_stays_below_the_loss_of_no_step():
    # Loss of no step is 1; of a step it is 1, less its first coordinate, and its third added. Of
    # two honest rows and two lies (1, 1, 2b) the mean is (1, 1, b): it passes for b <= 1. Of 4 and
    # its halves: 4 no, 2 no, 1 yes, then 1.5, 1.25 and 1.125 no.
    def loss(row):
        return 1.0 - float(row[0]) + float(row[2])

    rows = sent("past_trial", scene=Scene(loss=loss))
    assert torch.allclose(rows, torch.tensor([1.0, 1.0, 2.0]))
    # A margin of 0.5 leaves b <= 0.5; a tolerance of 1 lets b <= 2.
    assert torch.allclose(sent("past_trial", scene=Scene(loss=loss), margin=0.5)[0, 2],
                          torch.tensor(1.0))  # fmt: skip
    assert torch.allclose(sent("past_trial", scene=Scene(loss=loss), margin=-1.0)[0, 2],
                          torch.tensor(4.0))  # fmt: skip
    # Where not even the mean in front passes, it is sent alone.
    rows = sent("past_trial", scene=Scene(loss=loss), margin=9.0)
    assert torch.allclose(rows, torch.tensor([1.0, 1.0, 0.0]))


def test_past_the_trial_tries_what_the_known_rule_makes_of_it():
    # A rule that leaves nothing of a lie lets any length pass that is aimed at.
    class Deaf:
        def confirm(self, coefficients):
            return torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)

    scene = Scene(loss=lambda row: float(row[2]), span=lambda aims: Deaf())
    assert torch.allclose(sent("past_trial", scene=scene)[0, 2], torch.tensor(8.0))
    # Without the rule it is the mean, of which any push raises the loss.
    assert sent("past_trial", scene=Scene(loss=lambda row: float(row[2])))[0, 2] == 0


def test_ascent_turns_the_loss_until_its_ceiling():
    weight = torch.tensor(2.0, requires_grad=True)
    attacks.mislead(3 * weight, "ascent").backward()
    assert weight.grad == -3
    weight.grad = None
    attacks.mislead(3 * weight, "ascent", ceiling=5.0).backward()  # 6 is above it
    assert weight.grad == 0


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("capture", {"towards": "own", "own": None}, "capture towards=own needs own: got None"),
        ("capture", {"towards": "up"}, "got 'up'"),
        ("capture", {"scene": Scene(search=Search())}, "capture needs the rule to search against"),
        ("framing", {"framed": 3}, "framed <= 2, the updates seen: got 3"),
        ("denoised_backdoor", {"own": None}, "denoised_backdoor needs what each.*got own=None"),
        ("denoised_backdoor", {"memory": 1.0}, "got 1.0"),
        ("past_trial", {}, "past_trial needs scene.loss: got None; hand over a model"),
        ("searched", {}, "searched needs scene.span: got None; hand over the rule"),
        ("searched", {"objective": "harm"}, "got 'harm'"),
    ],
)
def test_refusals(name, given, words):
    call = {"own": OWN, "scene": Scene(), "generator": seeded(), **given}
    with pytest.raises(ValueError, match=words):
        attacks.craft(HONEST, name, num_attackers=2, **call)


def test_a_loss_is_misled_by_attacks_on_training_alone():
    with pytest.raises(ValueError, match="need an attack of level 'training' here: got ipm"):
        attacks.mislead(torch.tensor(1.0), "ipm")
    with pytest.raises(ValueError, match="got 0"):
        attacks.mislead(torch.tensor(1.0), "ascent", ceiling=0.0)
