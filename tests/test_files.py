"""What is written is written whole or not at all, and what a kill leaves is cleaned away."""

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import tripletomics
from tripletomics import files
from tripletomics.files import DiskFull

HOLD = """
import os, sys, time
from pathlib import Path
from tripletomics import files
with files.drafting(Path(sys.argv[1])) as draft:
    (draft / "half").write_text("half")
    print(draft.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that is writing."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True,
        cwd=Path(tripletomics.__file__).parents[1],
    ) as process:  # fmt: skip
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (files.replacing, files.check_writable):
        with pytest.raises(ValueError, match="pipe' exists and is not an ordinary file"), write(tmp_path / "pipe"):
            pass
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_drafts_of_the_dead_are_deleted_and_those_of_the_living_are_not(other, tmp_path):
    process, draft = other
    (tmp_path / f"{files.DRAFT}of nobody").mkdir()  # killed before it had a lock
    with files.replacing(tmp_path / "a.txt") as own:
        own.write_text("a")
        assert own.parent != draft
    assert (draft / "half").read_text() == "half"
    process.kill()
    process.wait()
    with files.replacing(tmp_path / "b.txt") as own:
        own.write_text("b")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_drafts_of_another_machine_stay_for_a_week(tmp_path):
    draft = tmp_path / f"{files.DRAFT}other"
    draft.mkdir()
    (draft / files.LOCK).write_bytes(b"another" + files.HOST)
    files.sweep(tmp_path)
    assert draft.exists()
    os.utime(draft / files.LOCK, (0, 0))
    files.sweep(tmp_path)
    assert not draft.exists()


def test_a_draft_cannot_be_guessed_nor_written_to_by_others(tmp_path):
    names = set()
    for _ in range(3):
        with files.replacing(tmp_path / "a.txt") as draft:
            names.add(draft.parent.name)
            assert stat.S_IMODE(draft.parent.stat().st_mode) == 0o700
            draft.write_text("a")
    assert len(names) == 3
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_is_written_through(tmp_path):
    for name in ("there", "links"):
        (tmp_path / name).mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "links" / "link.txt"
    link.symlink_to("../there/real.txt")
    for text in ("new", "again"):  # the target is not there at first
        assert files.check_writable(link, ".txt") == link
        with files.replacing(link) as draft:
            draft.write_text(text)
        assert real.read_text() == link.read_text() == text
        assert link.is_symlink()
    assert os.listdir(tmp_path / "links") == ["link.txt"]
    assert os.listdir(tmp_path / "there") == ["real.txt"]


def test_what_cannot_be_made_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain").touch()
    Path("link.md").symlink_to("/no/such/card.md")
    with pytest.raises(FileNotFoundError, match=r"^'link.md' is a link to '/no/such/card.md', whose folder does not"):
        files.check_writable("link.md")
    for refused in (lambda: files.check_writable("plain/x/a.txt"), lambda: files.make_folder(Path("plain/x"))):
        with pytest.raises(NotADirectoryError, match=r"^'plain' is a file, so there is no folder 'plain/x': choose an"):
            refused()

    def full(*given, **more):
        raise OSError(errno.EROFS, "Read-only file system", "draft")

    monkeypatch.setattr(files.tempfile, "mkdtemp", full)
    monkeypatch.setattr(Path, "mkdir", full)
    for refused in (lambda: files.check_writable("a.txt"), lambda: files.make_folder(Path("new"))):
        with pytest.raises(OSError, match=r"^Nothing can be made in '.*' \(Read-only file system\): choose another"):
            refused()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_the_mode_of_a_file_stays(tmp_path, mode):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "a.txt").chmod(mode)
    with files.replacing(tmp_path / "a.txt") as draft:
        draft.write_text("new")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_long_names(tmp_path):
    name = "a" * 251 + ".txt"
    with files.replacing(files.check_writable(tmp_path / name, ".txt")) as draft:
        draft.write_text("a")
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(OSError, match=r"longer than its disk allows: choose a shorter one"):
        files.check_writable(tmp_path / f"a{name}", ".txt")


def test_a_folder_that_is_gone_is_named_and_not_the_draft(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.replacing(tmp_path / "no" / "a.txt"):
        pass
    assert str(caught.value).endswith(f"{str(tmp_path / 'no')!r}")


FULL = [
    lambda: OSError(errno.ENOSPC, "No space left on device", ".tripletomics-draft"),
    lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
    lambda: RuntimeError("Can't write data (errno = 28, error message = 'No space left on device')"),  # HDF5's
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_says_what_is_needed_and_free(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with files.replacing(tmp_path / "a.txt", 1234) as draft:
            draft.write_text("half")
            raise error()

    with pytest.raises(DiskFull, match=r"a\.txt' could not be written \(.*\)\. It takes up to 1\.2 kB, and the disk"):
        write()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_room_is_asked_for_before_writing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DiskFull, match=r"\(File too large\)"), files.replacing(tmp_path / "a.txt", 2000):
            pytest.fail("it was not asked")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("platform", ["linux", "other"])
def test_folders_change_places(tmp_path, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    store = tmp_path / "store"
    store.mkdir()
    (store / "old").touch()
    with files.drafting(tmp_path) as draft:
        (draft / "store").mkdir()
        (draft / "store" / "new").touch()
        files.exchange(draft / "store", store)
    assert os.listdir(store) == ["new"]
    assert os.listdir(tmp_path) == ["store"]


def test_a_folder_that_a_kill_left_aside_comes_back(other, tmp_path):
    process, draft = other
    (draft / files.KEPT).mkdir()
    (draft / files.KEPT / "store").mkdir()
    process.kill()
    process.wait()
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["store"]
