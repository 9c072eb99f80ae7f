"""The most memory that a process has held."""

from pathlib import Path

import numpy as np
import psutil

from modelwright.train.peak import peak_memory_bytes, reset_peak_memory

GROWTH = 64 * 2**20


def test_it_follows_what_was_held():
    """At least what is held now, and more by a large array, also once that is gone."""
    reset_peak_memory()
    now = psutil.Process().memory_info().rss
    np.ones(GROWTH, np.uint8)

    assert now + GROWTH / 2 < peak_memory_bytes()


def test_without_proc_it_is_that_of_the_life(monkeypatch):
    """Where the system does not write that line, its count of the process serves."""
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"Name: python")

    assert psutil.Process().memory_info().rss / 2 < peak_memory_bytes()
