"""Named tensors as one row: by hand, and what is refused."""

import pytest
import torch

from fedtune.adapters.layout import Layout

# Sorted by name: a (2, 2) takes columns 0..3, b (3,) columns 4..6, c () column 7.
TENSORS = {
    "b": torch.tensor([5.0, 6.0, 7.0]),
    "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "c": torch.tensor(8.0),
}
ROW = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])


def test_by_hand():
    layout = Layout.of(TENSORS)
    assert layout.shapes == (("a", (2, 2)), ("b", (3,)), ("c", ()))
    assert layout.size == 8
    assert torch.equal(layout.flatten(TENSORS), ROW)
    back = layout.unflatten(ROW)
    assert list(back) == ["a", "b", "c"]
    assert all(torch.equal(back[name], TENSORS[name]) for name in TENSORS)


def test_the_order_of_a_mapping_is_of_no_account():
    turned = {name: TENSORS[name] for name in ("c", "a", "b")}
    assert Layout.of(turned) == Layout.of(TENSORS)
    assert torch.equal(Layout.of(TENSORS).flatten(turned), ROW)


def test_swapped_names_of_one_shape_land_in_each_others_place():
    """The key-order attack: equal as a set of names, told apart by place alone."""
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    layout = Layout.of({"x": x, "y": y})
    assert layout.flatten({"x": x, "y": y}).tolist() == [1, 2, 3, 4]
    assert layout.flatten({"y": x, "x": y}).tolist() == [3, 4, 1, 2]


def test_a_row_is_a_fresh_float32_copy():
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in TENSORS.items()}
    row = Layout.of(TENSORS).flatten(halves)
    assert row.dtype == torch.float32
    assert torch.equal(row, ROW)  # whole numbers up to 256 are exact in bfloat16
    halves["a"].zero_()
    assert torch.equal(row, ROW)


def test_a_tensor_that_wants_gradients_or_is_a_view_is_taken():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    row = Layout.of(TENSORS).flatten({**TENSORS, "a": parameter.T})  # strided
    assert not row.requires_grad
    assert torch.equal(row, ROW)


def test_unflatten_gives_views():
    row = ROW.clone()
    Layout.of(TENSORS).unflatten(row)["b"].zero_()
    assert row.tolist() == [1, 2, 3, 4, 0, 0, 0, 8]


def test_the_hash_tells_names_and_shapes_apart():
    hashes = {
        Layout(shapes).hash
        for shapes in [
            (("a", (2, 3)),),
            (("a", (3, 2)),),
            (("a", (6,)),),
            (("b", (2, 3)),),
            (("a", (2, 3)), ("b", ())),
        ]
    }
    assert len(hashes) == 5
    assert Layout.of(TENSORS).hash == Layout.of(dict(reversed(TENSORS.items()))).hash


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"a": None}, ["needs exactly the 3 tensors", "got 2", "lacks 'a'"]),
        ({"z": torch.zeros(1)}, ["got 4", "brings 'z'"]),
        ({"a": None, "z": torch.zeros(2, 2)}, ["lacks 'a'", "brings 'z'"]),
        ({"a": torch.zeros(4)}, ["a needs shape (2, 2)", "got (4,)"]),
        ({"b": torch.zeros(1)}, ["b needs shape (3,)", "got (1,)"]),  # no broadcasting
    ],
)
def test_other_names_or_shapes_are_refused(change, parts):
    tensors = {name: part for name, part in {**TENSORS, **change}.items() if part is not None}
    with pytest.raises(ValueError, match="needs") as caught:
        Layout.of(TENSORS).flatten(tensors)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("row", [torch.zeros(7), torch.zeros(9), torch.zeros(1, 8)])
def test_a_row_of_another_length_is_refused(row):
    with pytest.raises(ValueError, match=r"the row needs shape \(8,\); got"):
        Layout.of(TENSORS).unflatten(row)
