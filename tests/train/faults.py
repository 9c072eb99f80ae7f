"""A disk that refuses one of many writes, or every one from there on."""

import builtins
import io
import multiprocessing
import os
import shutil
from pathlib import Path


class Faults:
    """Counts the calls that write below a folder, and fails the one whose number is `failing`.

    Counted: opening to write, writing, syncing, making a folder, renaming, removing. A write that
    fails leaves half of its content. It is for forks: nothing is put back.

    Args:
        lasting: all calls from that one on fail, but for renaming and removing: a disk that stays
            full.
        calls: how many there were, for another process to see.
    """

    def __init__(self, folder, code, *, failing=None, lasting=False, calls=None):
        self.folder, self.code, self.lasting = str(folder), code, lasting
        self.failing = failing
        self._calls = calls or self.counter()
        mkdir, fsync, real_open = os.mkdir, os.fsync, builtins.open

        def new_folder(path, *mode, **keys):
            if not Path(path).is_dir():  # of what is there already, it writes nothing
                self._count(path)
            return mkdir(path, *mode, **keys)

        def counted_fsync(descriptor):
            self._count(Path(f"/proc/self/fd/{descriptor}").readlink())
            return fsync(descriptor)

        def counted_open(file, mode="r", *arguments, **keys):
            if not {"w", "a", "x", "+"} & set(mode) or not self._below(file):
                return real_open(file, mode, *arguments, **keys)
            self._count(file)
            return Writing(real_open(file, mode, *arguments, **keys), self, file)

        def counted(act):
            def call(path, *arguments, **keys):
                self._count(path, ends=True)
                return act(path, *arguments, **keys)

            return call

        os.mkdir, os.fsync = new_folder, counted_fsync
        builtins.open = io.open = counted_open  # pathlib opens by the latter
        for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (shutil, "rmtree")):
            setattr(module, name, counted(getattr(module, name)))

    @staticmethod
    def counter():
        """A number that forks share."""
        return multiprocessing.get_context("fork").Value("q", 0)

    @property
    def calls(self):
        """How many there were."""
        return self._calls.value

    def begin(self, failing):
        """Count anew; `failing` of None fails nothing."""
        self._calls.value, self.failing = 0, failing

    def _below(self, path):
        return isinstance(path, str | Path) and str(path).startswith(self.folder)

    def _count(self, path, ends=False):
        if not self._below(path):
            return
        with self._calls.get_lock():
            number = self._calls.value
            self._calls.value += 1
        if self.failing is None:
            return
        if number == self.failing or (self.lasting and number > self.failing and not ends):
            raise OSError(self.code, os.strerror(self.code))


class Writing:
    """An open file whose writes count."""

    def __init__(self, file, faults, path):
        self._file, self._faults, self._path = file, faults, path

    def write(self, content):
        try:
            self._faults._count(self._path)
        except OSError:
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self._file.close()
