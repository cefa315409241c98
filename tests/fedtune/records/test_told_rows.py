"""Rows of clients: the server's deal, or what nodes tell; never the one for the other."""

import json

import pytest

from fedtune.records.manifest import Manifest
from fedtune.records.told_rows import FILE, rows_by_client, write_told

ON_A_NETWORK = Manifest(node_keys=["a", "b", "c"], client_rows=[985, 985, 985])


def test_in_a_simulation_rows_are_those_that_were_dealt(tmp_path):
    assert rows_by_client(tmp_path, Manifest(client_rows=[5, 7])) == {0: 5, 1: 7}
    assert rows_by_client(tmp_path, Manifest()) == {}


def test_over_a_network_rows_are_those_that_owners_let_be_told(tmp_path):
    assert rows_by_client(tmp_path, ON_A_NETWORK) == {}  # 985 was the recipe's own deal
    write_told(tmp_path, {2: {"rows": 135}, 0: {"rows": None}, 1: {"schema_hash": "a"}})
    assert rows_by_client(tmp_path, ON_A_NETWORK) == {2: 135}


@pytest.mark.parametrize(
    "told",
    ["", "[1]", "{}", "7", '{"0": 7}', '{"-1": {"rows": 5}}', '{"0": {"rows": -1}}', "[" * 10_000,
     '{"0": {"rows": true}}', '{"0": {"rows": 1e3}}', '{"\u0663x": {"rows": 5}}'],
)  # fmt: skip
def test_a_damaged_file_tells_of_no_rows(tmp_path, told):
    (tmp_path / FILE).write_text(told)
    assert rows_by_client(tmp_path, ON_A_NETWORK) == {}


def test_what_is_not_new_is_not_written_again(tmp_path):
    said = {1: {"rows": 3}, 0: {"rows": 2}}
    write_told(tmp_path, said)
    before = (tmp_path / FILE).stat().st_mtime_ns
    assert list(json.loads((tmp_path / FILE).read_text())) == ["0", "1"]
    write_told(tmp_path, said)
    assert (tmp_path / FILE).stat().st_mtime_ns == before
