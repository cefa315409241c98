"""Held-out figures against a slow loop: one row at a time, no padding, float64."""

import math
from types import SimpleNamespace

import pytest
import torch

from fedtune.adapters import lora
from fedtune.recipe import Lora, parse_recipe
from fedtune.training.generation import complete
from fedtune.training.plan import Plan
from fedtune.training.tasks import Learner, sft

LENGTHS = [3, 17, 5, 30, 2, 9, 9, 24, 12, 7, 40]
PLAN = Plan.of(parse_recipe({}), torch.device("cpu"), torch.float32)


def measure(rows, model, *, batch_size, pad_token_id=0):
    tokenizer = SimpleNamespace(pad_token_id=pad_token_id)  # all that is asked of one
    return sft.measure(rows, Learner(model, tokenizer, PLAN), batch_size=batch_size)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny_model_folder):
    """Large random weights, so that logits are far from uniform and padding errors show."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(request.param))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lora.attach(model, Lora(), task_type="CAUSAL_LM", seed=0)


@pytest.fixture(scope="module")
def rows():
    """Rows of very unequal length, the first third of each without labels."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(1)
    made = []
    for length in LENGTHS:
        ids = torch.randint(5, 261, (length,), generator=generator).tolist()
        unlabelled = length // 3
        made.append({"input_ids": ids, "labels": [-100] * unlabelled + ids[unlabelled:]})
    return Dataset.from_list(made)


def slowly(rows, model):
    nats, right, tokens = 0.0, 0, 0
    for row in rows:
        with torch.no_grad():
            logits = model.eval()(torch.tensor([row["input_ids"]])).logits[0].double()
        for place in range(1, len(row["input_ids"])):
            label = row["labels"][place]
            if label != -100:
                before = logits[place - 1]
                nats += math.log(before.exp().sum().item()) - before[label].item()
                right += before.argmax().item() == label
                tokens += 1
    return nats / tokens, right / tokens, tokens


def test_equals_a_slow_loop(model, rows):
    loss, accuracy, tokens = slowly(rows, model)
    figures = measure(rows, model, batch_size=4)
    assert figures.loss == pytest.approx(loss, rel=1e-5)
    assert figures.others["token_accuracy"] == accuracy
    # By hand: a row of n has n - n // 3 labels; its first token has none before it (n = 2).
    assert figures.others["num_tokens"] == tokens == sum(n - max(n // 3, 1) for n in LENGTHS)


def test_the_batch_size_is_of_no_account(model, rows):
    alone = measure(rows, model, batch_size=1)
    for batch_size in (2, 5, 64):
        together = measure(rows, model, batch_size=batch_size)
        assert together.loss == pytest.approx(alone.loss, rel=1e-5)
        for name in ("token_accuracy", "num_tokens"):
            assert together.others[name] == alone.others[name]


def test_order_and_filler_are_of_no_account(model, rows):
    figures = measure(rows, model, batch_size=4)
    turned = rows.select(range(len(rows) - 1, -1, -1))
    assert measure(turned, model, batch_size=4).loss == pytest.approx(figures.loss, rel=1e-6)
    assert measure(rows, model, pad_token_id=77, batch_size=4).loss == pytest.approx(
        figures.loss, rel=1e-6
    )


def test_it_is_measured_in_eval_mode_and_left_as_it_was(model, rows):
    measured = measure(rows, model.eval(), batch_size=4)
    assert not model.training
    assert measure(rows, model.train(), batch_size=4) == measured
    assert model.training


class Answers(torch.nn.Module):
    """Gives one token of 264 the logit that it is made with, whatever is asked."""

    def __init__(self, token, logit):
        super().__init__()
        self.head = torch.nn.Linear(1, 264, bias=False)
        torch.nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[token] = logit
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)
        self.peft_config = {}

    def get_base_model(self):
        return self

    def get_input_embeddings(self):
        return self.head

    def get_output_embeddings(self):
        return self.head

    def base_model(self, input_ids, **_):
        return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 1))


def test_a_model_that_knows_nothing_has_the_loss_of_a_guess(rows):
    figures = measure(rows, Answers(0, 0.0), batch_size=4)
    assert figures.loss == pytest.approx(math.log(264), rel=1e-6)
    assert figures.others["perplexity"] == pytest.approx(264, rel=1e-5)


def test_perplexity_at_its_ends_by_hand():
    from datasets import Dataset

    rows = Dataset.from_list([{"input_ids": [9, 7, 7, 7], "labels": [-100, 7, 7, 7]}])
    # All others of 264 get exp(-1000) of what token 7 gets: nothing in float32.
    assert measure(rows, Answers(7, 1000.0), batch_size=1).as_dict() == {
        "loss": 0.0,
        "perplexity": 1.0,
        "token_accuracy": 1.0,
        "num_tokens": 3,
    }
    # 1000 nats a token: exp(1000) is beyond float64.
    assert measure(rows, Answers(8, 1000.0), batch_size=1).as_dict() == {
        "loss": 1000.0,
        "perplexity": math.inf,
        "token_accuracy": 0.0,
        "num_tokens": 3,
    }


def test_completions_are_greedy_and_deterministic(model, tiny_model_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder("llama"))
    prompts = [tokenizer(text).input_ids for text in ("add 3 4: ", "add 1 1: ", "x")]
    texts = complete(prompts, model.train(), tokenizer, max_new_tokens=6)
    assert model.training
    torch.manual_seed(5)
    assert complete(prompts, model, tokenizer, max_new_tokens=6) == texts
    # Step by step, without a cache: the most likely token, until the end or six of them.
    for prompt, text in zip(prompts, texts, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(model.eval()(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip() == text
