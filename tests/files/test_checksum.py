"""Files appear whole or not at all, and never over another one."""

import hashlib
import os

import pytest

from spica.files.checksum import atomic_path, copy_file, place_file, sha256_file, verify_sha256, write_atomic
from spica.model.errors import ConflictError, DataError


def test_sha256_is_that_of_hashlib_and_reports_progress(tmp_path):
    path = tmp_path / "a"
    content = os.urandom(9_000_000)
    path.write_bytes(content)
    seen = []
    assert sha256_file(path, seen.append) == hashlib.sha256(content).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1] == len(content)
    verify_sha256(path, hashlib.sha256(content).hexdigest().upper())
    with pytest.raises(DataError, match="copy it again"):
        verify_sha256(path, "0" * 64)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, b"old")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("link", [True, False])
def test_place_file_is_idempotent_and_never_overwrites(tmp_path, link):
    source, target = tmp_path / "s", tmp_path / "deep" / "t"
    source.write_bytes(b"pixels")
    place_file(source, target, link)
    place_file(source, target, link)
    assert target.read_bytes() == b"pixels"
    assert os.path.samefile(source, target) == link
    other = tmp_path / "o"
    other.write_bytes(b"others")
    with pytest.raises(ConflictError, match="other content"):
        place_file(other, target, link)
    assert target.read_bytes() == b"pixels"
    assert sorted(os.listdir(target.parent)) == ["t"]


def test_place_file_copies_where_hard_links_fail(tmp_path, monkeypatch):
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_bytes(b"pixels")

    def refuse(*_args, **_kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place_file(source, target)
    assert target.read_bytes() == b"pixels"
    assert not os.path.samefile(source, target)


def test_place_file_does_not_follow_a_dangling_link(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_bytes(b"pixels")
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError):
        place_file(source, target)
    assert not (tmp_path / "elsewhere").exists()


def test_copy_file_and_a_missing_source(tmp_path):
    source = tmp_path / "s"
    source.write_bytes(b"x" * 5_000_000)
    copy_file(source, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == source.read_bytes()
    with pytest.raises(DataError, match="cannot be read"):
        copy_file(tmp_path / "none", tmp_path / "d")
    with pytest.raises(DataError):
        place_file(tmp_path / "none", tmp_path / "d")
    assert not (tmp_path / "d").exists()
