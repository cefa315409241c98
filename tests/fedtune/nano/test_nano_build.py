"""The build, end to end on a tiny corpus: what it writes, and that the same seed gives the same."""

import json

import pytest
import torch

from fedtune.nano.build import Schedule, build

STEPS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    packages, library = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("library")
    for i in range(120):
        text = f"Return the thing of number {i}, or None where there is no such thing."
        (packages / f"pack{i}.py").write_text(f'def f{i}(x, y=None):\n    """{text}"""\n')
    (library / "standard.py").write_text('def f():\n    """A paragraph of the library."""\n')
    (packages / "copied.py").write_text('def f():\n    """A paragraph of the library."""\n')
    return packages, library


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    torch.set_num_threads(1)  # sums in one order

    def run_build(seed, **options):
        out = tmp_path_factory.mktemp("nano")
        settings = {"steps": STEPS, "batch_size": 2, "sequence_length": 32, **options}
        packages, library = folders
        return out, build(out, seed=seed, packages=packages, library=library, **settings)

    return run_build


@pytest.fixture(scope="module")
def built(run):
    done = []
    out, figures = run(0, progress=lambda step, loss: done.append((step, loss)))
    return out, figures, done


def test_the_folder_loads_and_holds_card_and_figures(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, figures, _ = built
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.vocab_size == len(tokenizer) == figures["vocabulary"]
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert json.loads((out / "figures.json").read_text()) == figures
    card = (out / "README.md").read_text()
    assert f"{figures['held_out']['bits_per_byte']:.3f} bits per byte" in card
    assert {path.stat().st_mode & 0o444 for path in out.iterdir()} == {0o444}


def test_progress_is_told_each_step(built):
    _, _, done = built
    assert [step for step, _ in done] == list(range(1, STEPS + 1))
    assert all(0 < loss < 20 for _, loss in done)


def test_the_figures_count_the_corpus(built):
    _, figures, _ = built
    corpus = figures["corpus"]
    assert corpus["documents"] + figures["held_out"]["documents"] == 120
    assert corpus["dropped"]["paragraphs of the standard library"] == 1
    assert "copied" not in corpus["packages"]


@pytest.mark.slow
def test_one_seed_gives_the_same_bits_and_another_does_not(built, run):
    out, figures, _ = built
    torch.rand(1)  # moves the global generator, on which nothing may depend
    state = torch.get_rng_state()
    again, same = run(0)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = run(1)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "figures.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    assert same == figures
    assert (other / "model.safetensors").read_bytes() != (out / "model.safetensors").read_bytes()


def test_the_rate_warms_up_and_comes_down():
    # 100 steps, 4 of warm-up: 1/4, 2/4, 3/4, 4/4 of the peak; then half a cosine over 96 steps,
    # whose middle (step 4 + 48) is half the peak.
    schedule = Schedule(
        steps=100, batch_size=1, sequence_length=2, learning_rate=0.4, seed=0, warmup=0.04
    )
    assert [schedule.rate(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert schedule.rate(52) == pytest.approx(0.2)
    assert 0 < schedule.rate(99) < 0.001


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 0), ("batch_size", 0), ("sequence_length", 1), ("sequence_length", 513),
     ("learning_rate", 0.0), ("learning_rate", 1.0)],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(run, option, value):
    with pytest.raises(ValueError, match=rf"{option}.*got"):
        run(0, **{option: value})


def test_a_folder_without_packages_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs documents.*got 0"):
        build(tmp_path / "out", steps=1, packages=tmp_path, library=tmp_path)
    assert not (tmp_path / "out").exists()
