"""Collecting the tests is quick: no test module brings the training stack along.

Each process notes what is loaded when it has collected, so that a run of all tests holds it for all
of them, and costs nothing. Not proven here: how many seconds collecting takes.
"""


def test_collection_imports_none_of_the_training_stack(loaded_by_collection):
    assert loaded_by_collection == set()
