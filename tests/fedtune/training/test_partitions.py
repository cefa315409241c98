"""Rows dealt to clients: each exactly once, the same each time, nobody left with too few."""

from collections import Counter

import pytest

from fedtune.recipe import Partition
from fedtune.training.partitions import deal, hold_out

CLIENTS = 5
COLUMN = {"dirichlet": "label", "natural_id": "topic", "shard": "label"}
WAYS = [
    Partition(by="iid", min_rows=2),
    Partition(by="dirichlet", column="label", alpha=0.4, min_rows=2),
    Partition(by="natural_id", column="topic", min_rows=10),
    Partition(by="shard", column="label", shards_per_client=2, min_rows=2),
    Partition(by="size", sizes="linear", min_rows=2),
    Partition(by="size", sizes="square", min_rows=2),
    Partition(by="size", sizes="exponential", min_rows=2),
]


def name(way):
    return f"{way.by}-{way.sizes}" if way.by == "size" else way.by


@pytest.fixture(scope="module")
def rows():
    """300 rows: 4 labels, and 24 topics of which topic t has about as many rows as t."""
    from datasets import Dataset

    topics = [f"t{t:02}" for t in range(24) for _ in range(t + 1)]
    return Dataset.from_list(
        [
            {"text": f"row {i}", "label": i % 4, "topic": topic}
            for i, topic in enumerate(topics)  # 1 + 2 + ... + 24 = 300
        ]
    )


@pytest.mark.parametrize("clients", [5, 4])  # 4 x 2 shards do not divide the 300 rows
@pytest.mark.parametrize("way", WAYS, ids=name)
def test_each_row_is_dealt_exactly_once_and_each_time_alike(rows, way, clients):
    parts = deal(rows, way, clients, seed=0)
    assert len(parts) == clients
    assert sorted(row for part in parts for row in part) == list(range(300))
    assert all(part == sorted(part) and len(part) >= way.min_rows for part in parts)
    assert deal(rows, way, clients, seed=0) == parts
    assert deal(rows, way, clients, seed=1) != parts


def test_replicate_deals_every_row_to_everyone(rows):
    parts = deal(rows, Partition(by="replicate"), 3, seed=0)
    assert parts == [list(range(300))] * 3


def test_one_client_gets_everything(rows):
    for way in WAYS:
        assert deal(rows, way, 1, seed=0) == [list(range(300))], way


def test_a_natural_id_is_never_split(rows):
    parts = deal(rows, WAYS[2], CLIENTS, seed=0)
    owners = Counter(topic for part in parts for topic in {rows[i]["topic"] for i in part})
    assert set(owners.values()) == {1}
    assert len(owners) == 24
    sizes = [len(part) for part in parts]
    assert max(sizes) > 1.5 * min(sizes)  # unequal by nature


def test_natural_ids_keep_up_the_minimum(rows):
    """300 rows in ids of at most 24, 6 clients: everyone can have 25, whatever the seed."""
    way = Partition(by="natural_id", column="topic", min_rows=25)
    for seed in range(5):
        assert min(len(part) for part in deal(rows, way, 6, seed=seed)) >= 25


def test_sizes_by_hand(rows):
    # Shares 1 : 2 : 3 : 4 of 300 are 30, 60, 90, 120; 1 : 4 : 9 : 16 are 10, 40, 90, 160.
    for sizes, expected in {"linear": [30, 60, 90, 120], "square": [10, 40, 90, 160]}.items():
        parts = deal(rows, Partition(by="size", sizes=sizes, min_rows=2), 4, seed=0)
        assert [len(part) for part in parts] == expected


def test_iid_mixes_the_labels_and_dirichlet_does_not(rows):
    def largest_share(way):
        parts = deal(rows, way, CLIENTS, seed=0)
        counts = [Counter(rows[i]["label"] for i in part) for part in parts]
        return max(max(count.values()) / count.total() for count in counts)

    assert largest_share(WAYS[0]) < 0.45  # a quarter each, give or take chance on 60 rows
    assert largest_share(WAYS[1]) > 0.6


def test_shards_hold_few_labels(rows):
    # Sorted by label and cut into 2 x 5 shards, a shard straddles two labels at the most.
    for part in deal(rows, WAYS[3], CLIENTS, seed=0):
        assert len({rows[i]["label"] for i in part}) <= 4
        assert len(part) == 60


@pytest.mark.parametrize(
    ("way", "clients"),
    [
        (Partition(by="iid", min_rows=61), 5),
        (Partition(by="size", min_rows=21), 5),  # 300 / (1 + 2 + 3 + 4 + 5) = 20 for the first
        (Partition(by="natural_id", column="topic", min_rows=16), 20),  # 320 > 300
        (Partition(by="natural_id", column="topic", min_rows=2), 25),  # 24 topics
        (Partition(by="replicate", min_rows=301), 2),
    ],
)
def test_too_few_rows_are_refused(rows, way, clients):
    with pytest.raises(ValueError, match=r"data\.partition: client") as caught:
        deal(rows, way, clients, seed=0)
    message = str(caught.value)
    assert f"needs at least {way.min_rows} rows; got" in message
    assert "ask for fewer clients, lower data.partition.min_rows" in message


def test_the_fewest_rows_are_one_to_train_on_and_one_to_hold_out(rows):
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Partition(min_rows=1)
    (part,) = deal(rows.select(range(2)), Partition(min_rows=2), 1, seed=0)
    split = hold_out(part, 0.1, seed=0)
    assert len(split.train) == len(split.test) == 1


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[3], WAYS[4]], ids=name)
def test_more_clients_than_rows_are_refused(rows, way):
    with pytest.raises(ValueError, match=r"num_clients: 9 clients need 2 rows each .*; got 6 rows"):
        deal(rows.select(range(6)), way, 9, seed=0)


def test_a_column_that_is_not_there_is_named(rows):
    with pytest.raises(ValueError, match="no column 'author'; the data has text, label, topic"):
        deal(rows, Partition(by="natural_id", column="author"), 2, seed=0)


def test_hold_out_by_hand():
    indices = list(range(100, 140))
    split = hold_out(indices, 0.25, seed=0)
    assert len(split.test) == 10  # a quarter of 40
    assert sorted(split.train + split.test) == indices
    assert hold_out(indices, 0.25, seed=0) == split
    assert hold_out(indices, 0.25, seed=1) != split


@pytest.mark.parametrize(("count", "fraction", "held"), [(2, 0.9, 1), (2, 0.01, 1), (10, 0.99, 9)])
def test_hold_out_leaves_something_on_either_side(count, fraction, held):
    split = hold_out(list(range(count)), fraction, seed=0)
    assert (len(split.train), len(split.test)) == (count - held, held)
