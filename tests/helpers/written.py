"""A round's record as its line in metrics.jsonl will say it, for tests that read lines."""

import json


def as_written(record):
    """The plain JSON of a `RoundRecord`, without what a folder adds to the line."""
    return json.loads(record.model_dump_json(by_alias=True, exclude_unset=True))
