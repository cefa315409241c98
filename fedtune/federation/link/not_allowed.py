"""The one error by which a node refuses an order."""


class NotAllowedError(ValueError):
    """What a recipe or an order asks of this node is not what its owner allowed."""
