"""The one exception for what a user got wrong; the command line turns it into exit code 2."""


class InputError(ValueError):
    """A wrong option, file or model: the message is one sentence that says what is wrong and the way out."""


class UnfinishedError(InputError):
    """A run could not go on, for instance because the disk is full; what it has finished is kept, and it can be resumed."""


class BusyError(InputError):
    """Another run is writing to the place."""


class DivergedError(InputError):
    """The loss of a training is no longer finite, or far above where it began; its guard ended it: exit code 1."""
