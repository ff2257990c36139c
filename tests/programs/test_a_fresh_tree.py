"""First of this package: the mount has just begun, and shows home's tree."""

from __future__ import annotations

import subprocess

import pytest

from tests.harness.surfaces import Surface

pytestmark = pytest.mark.mounted


def test_the_tree_is_home_s(surface: Surface) -> None:
    words = ["diff", "-r", "--no-dereference", "--exclude=.afm"]
    words += [str(surface.home), str(surface.path)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
