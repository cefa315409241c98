"""The scripts, units and the Compose file as text: syntax, names, mounts, and Flower's reading.

Not proven here: that they start anything (test_start_scripts.py, test_superlink_with_nodes.py), and
that Compose runs what it reads.
"""

import configparser
import re
import shutil
import subprocess

import pytest
import yaml
from flwr.common.config import parse_config_args

from fedtune.deployment.description import Description, Member
from fedtune.deployment.node import FOLDER_KEY
from fedtune.deployment.node_keys import new_node_key
from fedtune.deployment.scripts import deployment_files, node_files, server_files


def scripts_of(folder):
    return sorted(folder.path.rglob("*.sh"))


def test_no_blank_is_left(three_nodes):
    for path in three_nodes.path.rglob("*"):
        if path.is_file():
            assert not re.search("@[A-Z_]+@", path.read_text())


def test_bash_reads_the_scripts(three_nodes):
    assert len(scripts_of(three_nodes)) == 5
    for script in scripts_of(three_nodes):
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck_finds_nothing(three_nodes):
    for script in scripts_of(three_nodes):
        found = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout


def units_of(folder):
    return [folder.server / "superlink.service", folder.node_folders[1] / "supernode.service"]


def test_units_start_the_scripts_from_where_they_lie(three_nodes):
    for unit, place in zip(
        units_of(three_nodes),
        ("/opt/fedtune/deployment/server", "/opt/fedtune/node-01"),
        strict=True,
    ):
        parsed = configparser.ConfigParser(strict=False, interpolation=None)
        parsed.optionxform = str
        parsed.read(unit)
        assert parsed.sections() == ["Unit", "Service", "Install"]
        assert parsed["Service"]["ExecStart"] == f"{place}/start.sh"
        assert parsed["Service"]["WorkingDirectory"] == place
        assert parsed["Service"]["Restart"] == "on-failure"
        assert parsed["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_reads_the_units(three_nodes, tmp_path):
    for unit, place in zip(
        units_of(three_nodes),
        ("/opt/fedtune/deployment/server", "/opt/fedtune/node-01"),
        strict=True,
    ):
        mended = unit.read_text().replace(place, str(unit.parent)).replace("User=fedtune\n", "")
        (tmp_path / unit.name).write_text(mended)
        command = ["systemd-analyze", "verify", "--recursive-errors=no", tmp_path / unit.name]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert unit.name not in found.stderr, found.stderr  # no warning about it either


def test_compose_mounts_a_bundle_each_and_no_more(three_nodes):
    composed = yaml.safe_load((three_nodes.path / "compose.yaml").read_text())
    services = composed["services"]
    assert list(services) == ["superlink", "node-00", "node-01", "node-02"]
    superlink = services.pop("superlink")
    assert superlink["command"] == ["/deployment/server/start.sh"]
    assert superlink["environment"] == {
        "FEDTUNE_BIND": "0.0.0.0",
        "XDG_CACHE_HOME": "/deployment/server/cache",
    }
    assert superlink["ports"] == ["9443:9443"]
    assert superlink["volumes"] == [
        "./server:/deployment/server",
        "./deployment.json:/deployment/deployment.json:ro",
    ]
    for name, service in services.items():
        assert service["command"] == ["/node/start.sh"]
        assert service["volumes"] == [f"./nodes/{name}:/node"]
        # A name that the SuperLink's certificate holds for; see test_certificates.py.
        assert service["environment"] == {
            "FEDTUNE_SUPERLINK": "superlink:9443",
            "XDG_CACHE_HOME": "/node/cache",
        }
        assert "ports" not in service
    for service in (superlink, *services.values()):
        assert service["image"] == "${FEDTUNE_IMAGE:-fedtune-node}"
        assert service["user"] == "${FEDTUNE_USER:-1000:1000}"
        assert (three_nodes.path / service["build"]["context"] / "Dockerfile").is_file()
        for mount in service["volumes"]:
            assert (three_nodes.path / mount.split(":")[0]).exists()


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("192.0.2.1", "0.0.0.0"),
        ("fed.example.org", "0.0.0.0"),
        ("2001:db8::1", "::"),
    ],
)
def test_a_rehearsal_listens_on_loopback_alone(one_node, host, bind):
    script = server_files(one_node.model_copy(update={"host": host}))["start.sh"]
    assert f'--host "${{FEDTUNE_BIND:-{bind}}}" --port 9443' in script


def test_an_ipv6_address_stands_in_brackets(one_node):
    nodes = node_files(one_node.model_copy(update={"host": "2001:db8::1"}), 0)
    assert "superlink=${FEDTUNE_SUPERLINK:-[2001:db8::1]:9443}" in nodes["start.sh"]


@pytest.mark.parametrize("path", ["/srv/node-00", "/a b/it's = here; $(no)", "/ü/{x}", "/a#b"])
def test_flower_reads_the_nodes_folder_as_it_is_written(path):
    assert parse_config_args([f'{FOLDER_KEY}="{path}"']) == {FOLDER_KEY: path}


def test_the_top_page_counts_and_dates(three_nodes):
    text = (three_nodes.path / "README.md").read_text()
    assert "the SuperLink at 127.0.0.1:9443, 3 nodes" in text
    assert f"{three_nodes.expires:%Y-%m-%d}" in text
    assert sum(line[:1].isdigit() for line in text.splitlines()) == 5
    member = Member(name="node-00", public_key=new_node_key("x")[1])
    alone = Description(host="fed.example.org", port=443, nodes=(member,))
    assert (
        "fed.example.org:443, 1 node\n" in deployment_files(alone, three_nodes.expires)["README.md"]
    )
