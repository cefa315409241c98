"""What the tests of the embedded model share."""

import pytest

from fedtune.nano import python_docs


@pytest.fixture(scope="session")
def rows():
    """Read python-docs from the sources once: a second or so each time."""
    return python_docs.read_rows()
