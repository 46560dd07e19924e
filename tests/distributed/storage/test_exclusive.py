"""Files that one process makes and all others find whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from distributed.storage.exclusive import link_once, write_private_once


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_once_with_the_rights_of_its_source(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(source: Path, target: Path) -> None:
            if Path(target).exists():
                raise FileExistsError
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    first, second, target = tmp_path / "first", tmp_path / "second", tmp_path / "target"
    first.write_bytes(b"first")
    first.chmod(0o600)
    second.write_bytes(b"second")
    assert link_once(first, target)
    assert not link_once(second, target)
    assert target.read_bytes() == b"first"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_of_many_that_write_a_secret_at_once_all_find_the_same_whole_one(tmp_path: Path) -> None:
    path, found, begin = tmp_path / "secret", list[bytes](), threading.Barrier(8)

    def work(number: int) -> None:
        begin.wait()
        write_private_once(path, bytes([number]) * 1000)
        found.append(path.read_bytes())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
