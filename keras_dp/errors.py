"""The errors that keras_dp raises, besides `ValueError` for bad arguments."""


class PrivacyBudgetExceeded(RuntimeError):
    """An update was refused because it would pass the privacy budget.

    It is raised before the update: weights, ledger and data stay as they were.
    """


class LedgerFileError(ValueError):
    """A ledger on disk is damaged, in use, or cannot be written.

    Nothing was changed: weights, counts and the file are as they were.
    """


class NotPrivateError(ValueError):
    """Something cannot be trained privately.

    A model, a layer, a loss, an optimizer or a data source that would let private data through
    without clipping and noise. The message names it and says what to do instead.
    """
