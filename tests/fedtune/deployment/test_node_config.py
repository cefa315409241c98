"""`node.yaml`: what it may say, and what each wrong line is told."""

import pytest
import yaml

from fedtune.deployment.node import NodeConfig, load_node_config
from fedtune.deployment.scripts import node_files
from fedtune.recipe import RecipeError


@pytest.fixture
def written(tmp_path):
    """Write a node.yaml; its path."""

    def write(text):
        path = tmp_path / "node.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    return write


def test_the_file_of_a_new_folder_is_the_default(written, one_node):
    assert load_node_config(written(node_files(one_node, 0)["node.yaml"])) == NodeConfig()


def test_the_file_names_every_key_that_there_is(one_node):
    assert list(yaml.safe_load(node_files(one_node, 0)["node.yaml"])) == list(
        NodeConfig.model_fields
    )


def test_a_folder_is_read_by_its_node_yaml_and_data_from_there(written, tmp_path, monkeypatch):
    written({"data": "rows/mine.jsonl", "device": "cuda:1", "threads": 4})
    monkeypatch.chdir("/")
    config = load_node_config(tmp_path)
    assert config.data == tmp_path / "rows/mine.jsonl"
    assert (config.device, config.threads, config.max_local_steps) == ("cuda:1", 4, 1000)
    assert (
        load_node_config(written({"data": "/rows/mine.jsonl"})).data.as_posix()
        == "/rows/mine.jsonl"
    )
    monkeypatch.setenv("HOME", "/home/me")
    assert (
        load_node_config(written({"data": "~/mine.jsonl"})).data.as_posix() == "/home/me/mine.jsonl"
    )


def test_models_by_name_and_by_hash(written):
    models = ["nano", "Qwen/Qwen3-0.6B", "sha256:" + "0123456789abcdef" * 4]
    assert load_node_config(written({"allowed_models": models})).allowed_models == models
    assert load_node_config(written({"allowed_models": []})).allowed_models == []
    pinned = ["Qwen/Qwen3-0.6B@c1899de289a04d12100db370d81485cdf75e47ca"]
    assert load_node_config(written({"allowed_models": pinned})).allowed_models == pinned


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("thread: 2", "thread: unknown key; did you mean 'threads'?"),
        ("max_local_step: 2", "max_local_step: unknown key; did you mean 'max_local_steps'?"),
        ("threads: 0", "threads: input should be greater than or equal to 1; got 0"),
        ("threads: '2'", "threads: input should be a valid integer; got '2'"),
        ("threads: true", "threads: input should be a valid integer; got True"),
        ("max_rounds: 100001", "max_rounds: input should be less than or equal to 100000"),
        ("max_tries: 0", "max_tries: input should be greater than or equal to 1; got 0"),
        ("max_rank: 1025", "max_rank: input should be less than or equal to 1024"),
        ("max_order_s: 0.5", "max_order_s: input should be a valid integer; got 0.5"),
        ("max_day_s: 86401", "max_day_s: input should be less than or equal to 86400"),
        ("max_day_order: 5", "max_day_order: unknown key; did you mean 'max_day_orders'?"),
        ("max_local_steps: 1.5", "max_local_steps: input should be a valid integer; got 1.5"),
        ("allow_remote_code: true", "allow_remote_code: input should be False; got True"),
        ("device: tpu", "device: string should match pattern"),
        ("allowed_models: nano", "allowed_models: input should be a valid list; got 'nano'"),
        ("allowed_models: [../secret]", "needs nano, a hub's name or sha256: and 64 hex digits"),
        ("allowed_models: [a/b/c]", "a revision is owner/name@revision"),
        ("allowed_models: ['sha256:12']", "allowed_models.0: needs nano, a hub's name or sha256:"),
        ("data: .", "data: needs rows of your own: got the folder that holds node.key"),
        ("data: ''", "data: needs rows of your own"),
        ("threads: 1\nthreads: 2", "threads: given twice"),
        ("- threads", "needs a mapping of sections; got list"),
        ("", "needs a mapping of sections; got NoneType"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_wrong_lines(written, text, told):
    with pytest.raises(RecipeError) as caught:
        load_node_config(written(text))
    assert told in str(caught.value)


def test_every_wrong_line_is_told_with_the_files_name(written):
    path = written({"thread": 2, "device": "tpu"})
    with pytest.raises(RecipeError) as caught:
        load_node_config(path)
    assert len(caught.value.problems) == 2
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


def test_no_file(tmp_path):
    with pytest.raises(RecipeError, match=r"node\.yaml: No such file"):
        load_node_config(tmp_path)
