"""One study for all tests that begin with a finished one."""

import subprocess

import pytest

from tests.comparison.real_study import command, write_study


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder)
    # a program of its own: here another test may have started the fork server, with less in it
    subprocess.run(command(study, folder / "out"), check=True)
    return study, folder / "out"
