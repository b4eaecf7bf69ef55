"""Which folders a server takes as its home, and that it leaves all others as they are."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from asr_lightning.__main__ import main
from asr_lightning.server.engine import claim
from asr_lightning.server.engine.claim import MARKER
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import HomeError
from asr_lightning.server.engine.home import Home
from tests.server import driver
from tests.server.driver import reach, running, submit


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def listing(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """The mode and the content of everything in a folder, and its own."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.lstat().st_mode, p.read_bytes() if p.is_file() else None) for p in paths}


FOREIGN: dict[str, tuple[str, ...]] = {
    "a project": ("jobs/cv.txt", "README.md"),
    "uploads of a web page": ("uploads/holiday.jpg",),
    "a trash can": ("trash/letter.txt",),
    "one hidden file": (".profile",),
    "all names of a home and another database": (
        "jobs/1.txt", "uploads/2.txt", "trash/3.txt", "locks/4.txt", "server.lock", "state.db",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_in_use_is_refused_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    put(folder, *FOREIGN[kind])
    if (folder / "state.db").exists():
        (folder / "state.db").unlink()
        with closing(sqlite3.connect(folder / "state.db")) as connection:
            connection.execute("CREATE TABLE songs (title)")
    folder.chmod(0o755)
    before = listing(folder)
    with pytest.raises(HomeError, match=r"--home .*/mine/asr_lightning") as caught:
        Engine(driver.settings(folder))
    assert listing(folder) == before
    remedy = Path(str(caught.value).rpartition("--home ")[2])
    with running(remedy) as engine:
        reach(engine, submit(engine), "succeeded")
    shutil.rmtree(remedy)
    assert listing(folder) == before


def test_serve_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "mine", "jobs/cv.txt")
    assert main(["serve", "--home", str(tmp_path / "mine"), "--port", "0", "--device", "cpu"]) == 2
    assert f"{tmp_path}/mine holds jobs, and no {MARKER}" in capsys.readouterr().err
    assert (tmp_path / "mine" / "jobs" / "cv.txt").exists()


@pytest.mark.parametrize("name", ["jobs", "uploads", "trash", "locks", "quarantine"])
def test_a_linked_folder_is_refused(name: str, home: Path, tmp_path: Path) -> None:
    """Also in a home that was sound before."""
    put(tmp_path / "elsewhere", "cv.txt", "letter.deadbeef")
    before = listing(tmp_path / "elsewhere")
    Home(home)
    (home / name).rmdir()
    (home / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeError, match=f"{name} is a link"):
        Engine(driver.settings(home))
    assert listing(tmp_path / "elsewhere") == before
    (home / name).unlink()
    (home / name).mkdir()  # as the message says
    with running(home):
        pass


def test_a_home_may_be_a_link_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    for _ in range(2):
        with running(tmp_path / "home"):
            assert (tmp_path / "disk" / MARKER).is_file()


def test_an_empty_folder_is_taken_with_the_mode_it_has(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    put(home, "lost+found/x")  # of a new file system
    with running(home) as engine:
        reach(engine, submit(engine), "succeeded")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir() if path.name != "lost+found"}
        assert stat.S_IMODE(home.stat().st_mode) == 0o755
        assert {name for name, mode in modes.items() if mode & 0o077} <= {"proof-cpu"}  # the fake trainer's
    assert (home / "lost+found" / "x").exists()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    with pytest.raises(HomeError, match="others may write") as caught:
        Home(tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o1777
    assert Home(Path(str(caught.value).rpartition("--home ")[2])).path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("store", ["sound", "lost", "damaged"])
def test_a_home_of_an_earlier_version_is_taken_over(store: str, home: Path) -> None:
    """It had neither marker nor quarantine nor histories; other files may lie in it."""
    with running(home) as engine:
        job = reach(engine, submit(engine, key="k"), "succeeded")
    for path in (home / MARKER, home / "clock.json", home / "jobs" / job.id / "history.jsonl"):
        path.unlink()
    (home / "quarantine").rmdir()
    put(home, "notes.txt")
    if store == "lost":
        (home / "state.db").unlink()
    elif store == "damaged":
        (home / "state.db").write_bytes(b"?" * 8192)
    for _ in range(2):
        with running(home) as engine:
            assert engine.job(job.id).artifacts == job.artifacts
            assert engine.job(job.id).ended_at is not None
            assert submit(engine, key="k").id == job.id
            assert (home / "jobs" / job.id / "history.jsonl").is_file()
    assert (home / "notes.txt").read_text() == "notes.txt"


def test_a_killed_first_start_is_gone_on_with(home: Path) -> None:
    home.mkdir(mode=0o700)
    put(home, f".{MARKER}.0a1b2c3d")
    with running(home):
        assert (home / MARKER).is_file()


def test_a_damaged_marker_is_written_again(home: Path) -> None:
    with running(home):
        pass
    (home / MARKER).write_text("{")
    with running(home):
        assert (home / MARKER).read_text() != "{"


def test_two_servers_that_start_at_once_share_a_new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one marks the folder after this one has looked for a marker, and before it lists what is there."""
    looks, is_marked = [], claim._is_marked

    def look(path: Path) -> bool:
        looks.append(is_marked(path))
        if len(looks) == 1:
            monkeypatch.setattr(claim, "_is_marked", is_marked)
            claim.claim(path)
        return looks[-1]

    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setattr(claim, "_is_marked", look)
    claim.claim(tmp_path / "home")
    assert looks == [False] and is_marked(tmp_path / "home")
