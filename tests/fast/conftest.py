"""Native code for other processors than this one."""

import os

import pytest
from filelock import FileLock

from lambda_grpo.fast.native import build


@pytest.fixture
def compile_for(monkeypatch, tmp_path_factory):
    """Compile the library with another -march and use it in this test; once for all tests and xdist workers."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "other-processors"
    cache.mkdir(exist_ok=True)

    def load(march):
        flags = tuple(march if flag.startswith("-march") else flag for flag in build.FLAGS)
        monkeypatch.setattr(build, "FLAGS", flags)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        build._library.cache_clear()
        with FileLock(cache / f"{march}.lock"):
            return build.library()

    yield load
    build._library.cache_clear()
