"""Deployments that tests share, made once: do not write into them."""

import pytest

from fedtune.deployment.description import Description, Member
from fedtune.deployment.folder import DeploymentFolder
from fedtune.deployment.node_keys import new_node_key


@pytest.fixture(scope="session")
def one_node():
    """What deployment.json says of a deployment of one node."""
    key = new_node_key("node-00")[1]
    member = Member(name="node-00", public_key=key)
    return Description(host="127.0.0.1", port=9443, nodes=(member,))


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory):
    """A deployment of three nodes on loopback."""
    return DeploymentFolder.create(tmp_path_factory.mktemp("three") / "fed", 3, "127.0.0.1", 9443)
