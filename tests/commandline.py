"""What the tests of the command line share: calls, refusals, and tables read back."""

import csv

from typer.testing import CliRunner

from robench.cli import app

# a process in the background of a shell would ignore Ctrl-C
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("robench", run_name="__main__")
"""


def robench(*words, code=0):
    """The result of a call, which must end with this exit code."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*words):
    """The one sentence that a wrong call gets, with exit code 2."""
    stderr = robench(*words, code=2).stderr
    assert "Traceback" not in stderr
    return " ".join(stderr.replace("│", " ").split())


def read(path):
    """The lines of a CSV as dicts."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
