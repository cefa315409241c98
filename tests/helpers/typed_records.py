"""Records made up by hand, as the readers of a run get them."""

from fedtune.records.lines import RoundRecord


def typed(records):
    """Plain mappings as records."""
    return [RoundRecord.model_validate(each) for each in records]
