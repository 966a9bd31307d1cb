"""What Keras' loop calls once for every step, around the private update."""

from typing import Any


class TrainFunction:
    """Hands the training state from Keras to an update and back; each backend says how.

    Args:
        update: `executor.UpdateFunction`, called with a state and an iterator of update slots.

    Attributes:
        update: The same.
    """

    def __init__(self, update: Any) -> None:
        self.update = update
