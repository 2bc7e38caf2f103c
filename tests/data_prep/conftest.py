"""VIPSeg's layout with three small videos, for the tests of its preparation."""

from pathlib import Path

import pytest
import real_videos


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three good videos."""
    return real_videos.vipseg(tmp_path_factory.mktemp("vipseg") / "a root")


@pytest.fixture
def own_root(tmp_path) -> Path:
    """The same three, to be damaged."""
    return real_videos.vipseg(tmp_path / "root")
