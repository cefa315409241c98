"""`deployment.json`, which a launcher may edit: each wrong line is told."""

import json

import pytest

from fedtune.deployment.description import Description, read_description
from fedtune.deployment.node_keys import new_node_key
from fedtune.recipe import RecipeError

KEYS = [new_node_key(name)[1] for name in ("a", "b")]


def raw(**changes):
    nodes = [{"name": f"node-{i}", "public_key": key} for i, key in enumerate(KEYS)]
    return {"version": 1, "host": "fed.example.org", "port": 9443, "nodes": nodes, **changes}


@pytest.fixture
def read(tmp_path):
    def write_and_read(content):
        path = tmp_path / "deployment.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_description(path)

    return write_and_read


def test_what_is_written_is_read_back(read):
    description = Description.model_validate(raw())
    assert read(description.model_dump_json()) == description


def test_an_owners_own_key_takes_the_place_of_another(read):
    own = new_node_key("somebody@home")[1]
    nodes = raw()["nodes"]
    nodes[1]["public_key"] = own
    assert read(raw(nodes=nodes)).nodes[1].public_key == own


def two(**changes):
    """The two nodes, the second changed."""
    nodes = raw()["nodes"]
    return raw(nodes=[nodes[0], {**nodes[1], **changes}])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (raw(prot=1), "prot: unknown key; did you mean 'port'?"),
        (raw(version=2), "version: input should be 1; got 2"),
        (raw(port=0), "port: input should be greater than or equal to 1; got 0"),
        (raw(port=65_536), "port: input should be less than or equal to 65535"),
        (raw(host="a b"), "host: --host needs an IP address or a DNS name: got 'a b'"),
        (raw(nodes=[]), "nodes: "),
        (two(name="node-0"), "node-0 has the name of node-0; give each its own"),
        (two(public_key=KEYS[0]), "node-1 has the key of node-0; give each its own"),
        (two(public_key=KEYS[0] + "x"), "node-1 has the key of node-0"),  # another comment
        (two(public_key="ssh-ed25519 AAAA"), "needs a public key on a NIST curve"),
        (two(name="../up"), "nodes.1.name: string should match pattern"),
        (two(name="Node 1"), "nodes.1.name: string should match pattern"),
        (two(name="a" * 64), "nodes.1.name: string should match pattern"),
        (two(name="node-1\n"), "nodes.1.name: string should match pattern"),
        (two(rank=2), "nodes.1.rank: unknown key"),
        ([], "needs an object: got list"),
        ("{", "not readable as JSON"),
        ("\ufeff{}", "not readable as JSON"),
        ('{"port": 1, "port": 2}', "'port' is given twice"),
        (" " * (2**20 + 1), "needs at most 1048576 bytes"),
    ],
)
def test_wrong_lines(read, tmp_path, content, told):
    with pytest.raises(RecipeError) as caught:
        read(content)
    assert told in str(caught.value)
    assert all(str(tmp_path) in problem for problem in caught.value.problems)
