"""One study for all tests that begin with a finished one."""

import pytest

from lambda_grpo.cli import main
from tests.comparison.real_study import write_study


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder)
    assert main(["compare", study, "--output_dir", str(folder / "out")]) == 0
    return study, folder / "out"
