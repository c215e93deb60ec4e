"""Questions to a server that may not be there yet: asked again until it is, or until time is up."""

import logging
import re
import time

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds
_LONGEST_WORDS = 400  # characters


class Unavailable(Exception):
    """The server cannot answer now; another try may find it ready. The text is what it said."""


class Late(Exception):
    """The time that an answer may take was up."""


class Refused(ValueError):
    """The answer is no, and stays so."""


def answer_of(question, server, deadline):
    """question(seconds) of the first try that finds the server ready; seconds: what is left of the deadline.

    Tries are 0.1 s apart, then twice as long each time up to 5 s. Refused, in one sentence with the server's words,
    where it says anything else than that it is unavailable; ValueError where it never was available.
    """
    end, pause = time.monotonic() + deadline, _FIRST_PAUSE
    while True:
        try:
            return question(max(end - time.monotonic(), 1e-3))
        except Unavailable as error:
            words = _sentence(str(error))
        except Late as error:
            raise ValueError(f"--server={server} gave no answer within --deadline={deadline:g} seconds.") from error
        except Refused as error:
            raise Refused(f"--server={server} failed: {_sentence(str(error))}.") from error
        if end - time.monotonic() <= pause:
            raise ValueError(f"--server={server} was unavailable for --deadline={deadline:g} seconds: {words}.")
        if pause == _FIRST_PAUSE:
            logging.getLogger(__name__).warning(f"{server} is unavailable, asking again for {deadline:g} s: {words}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _sentence(words):
    """One line of a server's message, without the places in the graph that TensorFlow lists behind it."""
    line = " ".join(re.sub(r"\[\[\{\{.*", "", words, flags=re.DOTALL).split()).rstrip(" .,")
    return line if len(line) <= _LONGEST_WORDS else f"{line[:_LONGEST_WORDS]}..."
