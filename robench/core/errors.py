"""The one exception for what a user got wrong; the command line turns it into exit code 2."""

LONGEST_SENTENCE = 1000  # letters; what a file or an option holds may be longer, and stands in sentences
TURNING = (0x61C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # the direction of a text, or its line
CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), *TURNING), "?")  # a name could write to the terminal what it likes


class InputError(ValueError):
    """A wrong option, file or model: the message is one sentence that says what is wrong and the way out.

    A long one is cut in its middle, and control characters of what it quotes become question marks.
    """

    def __init__(self, sentence: object = "") -> None:
        text = str(sentence).translate(CONTROLS)
        half = LONGEST_SENTENCE // 2
        super().__init__(text if len(text) <= LONGEST_SENTENCE else f"{text[:half]} ... {text[-half:]}")


class AbsentDataError(InputError):
    """A data set does not lie where it was looked for."""


class UnfinishedError(InputError):
    """A run could not go on, for instance because the disk is full; what it has finished is kept, and it can be resumed."""


class OtherRunError(InputError):
    """A state belongs to another run.

    Attributes:
        key: the first thing in which the two differ, a key of their headers; "" where the state does not say which run it is of.
    """

    def __init__(self, sentence: object = "", key: str = "") -> None:
        super().__init__(sentence)
        self.key = key


class BusyError(InputError):
    """Another run is writing to the place."""


class DivergedError(InputError):
    """The loss of a training is no longer finite, or far above where it began; its guard ended it: exit code 1."""
