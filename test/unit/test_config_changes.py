"""Changes of configuration files on the disk, and the control file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from config_files import copy_shipped, write
from fractal_rm.config.control import (
    Control,
    ControlUnreadable,
    change_control,
    read_control,
    store_draining,
)
from fractal_rm.config.load import FileWatch, load


@pytest.fixture
def folder(tmp_path):
    return copy_shipped(tmp_path)


def test_a_changed_file_is_reported_until_the_change_is_accepted(folder):
    watch = FileWatch(folder)
    assert not watch.changed()
    write(folder, "flows", "1\n")
    assert not watch.changed()  # the file may still be incomplete
    assert watch.changed()
    assert watch.changed()
    watch.accept()
    assert not watch.changed()


def test_a_change_during_the_reading_of_the_files_is_detected(folder):
    watch = FileWatch(folder)
    load(folder, {})
    write(folder, "flows", "1\n")
    watch.watch_also([])
    assert [watch.changed(), watch.changed()] == [False, True]


def test_files_that_are_still_being_written_are_not_reported(folder):
    watch = FileWatch(folder)
    for n in range(4):
        write(folder, "flows", "x" * n)
        assert not watch.changed()
    assert watch.changed()


def test_a_deleted_or_new_file_is_reported_as_a_change(folder):
    watch = FileWatch(folder)
    (folder / "nodes.conf").unlink()
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.accept()
    write(folder, "nodes", {})
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_changed_file_of_a_secret_is_reported_as_a_change(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    watch = FileWatch(folder)
    watch.watch_also([secret])
    secret.write_text("bb")
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_file_of_a_secret_that_becomes_readable_is_reported_as_a_change(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    secret.chmod(0)
    watch = FileWatch(folder)
    watch.watch_also([secret])
    secret.chmod(0o600)
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_change_after_accept_is_detected(folder):
    watch = FileWatch(folder)
    write(folder, "flows", "1\n")
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.accept()
    assert watch.unchanged()
    write(folder, "flows", "1\n\n")
    assert not watch.unchanged()


def test_the_control_file_is_read_as_it_was_written(tmp_path):
    assert read_control(tmp_path) == Control()
    change_control(tmp_path, lambda _: Control(paused=True, release_parked_before_ms=5))
    assert read_control(tmp_path) == Control(paused=True, release_parked_before_ms=5)
    assert [path.name for path in tmp_path.iterdir()] == ["control.json"]
    (tmp_path / "control.json").write_text("{broken")
    with pytest.raises(ControlUnreadable, match=r"control\.json cannot be read: .*resume"):
        read_control(tmp_path)


def test_a_control_file_of_an_older_release_says_that_the_node_does_not_drain(tmp_path):
    (tmp_path / "control.json").write_text('{"paused":true,"release_parked_before_ms":7}')
    assert read_control(tmp_path) == Control(paused=True, release_parked_before_ms=7)
    store_draining(tmp_path, True)
    assert read_control(tmp_path) == Control(True, 7, draining=True)


def test_changes_of_the_control_file_at_the_same_time_are_all_kept(tmp_path):
    def count(_):
        change_control(
            tmp_path,
            lambda control: Control(release_parked_before_ms=control.release_parked_before_ms + 1),
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(40)))
    assert read_control(tmp_path).release_parked_before_ms == 40


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the owner of a file")
def test_a_control_file_written_by_root_belongs_to_the_owner_of_the_state_folder(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    change_control(tmp_path, lambda _: Control(paused=True))
    assert (tmp_path / "control.json").stat().st_uid == 65534
