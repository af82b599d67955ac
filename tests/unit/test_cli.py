"""The command line itself."""

import pytest

from fraud import __version__
from fraud.pipeline import cli


@pytest.mark.parametrize("arguments", [["--version"], ["--debug", "--version"], ["--version", "local", "up"]])
def test_the_version_is_printed_without_a_command(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")
