"""Which exception becomes which failure."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_lightning.job_folder.failure import CancelledError, failure_of, one_line

JOB = Path("/srv/asr/jobs/abc")


def raised(error: BaseException, beneath: BaseException | None = None) -> BaseException:
    try:
        try:
            if beneath is not None:
                raise beneath
        finally:
            raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "oom"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (MemoryError(), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EFBIG, "File too large"), "disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "internal"),
        (CancelledError(), "cancelled"),
        (ValueError("no model 'x'"), "internal"),
        (KeyError("x"), "internal"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_has_its_code(error: BaseException, code: str) -> None:
    assert failure_of(raised(error), JOB).code == code


def test_memory_that_torch_and_numpy_really_cannot_get() -> None:
    for allocate in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50)):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            allocate()
        assert failure_of(error.value, JOB).code == "oom", error.value


def test_a_full_disk_beneath_a_librarys_error_counts() -> None:
    """``torch.save`` turns it into one about positions in a file."""
    wrapped = raised(RuntimeError("unexpected pos 576 vs 470"), OSError(errno.ENOSPC, "No space left on device"))
    assert failure_of(wrapped, JOB).code == "disk_full"
    assert failure_of(RuntimeError("I/O error: No space left on device (os error 28)"), JOB).code == "disk_full"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/asr/jobs/abc/dataset/clip-0001.wav: too short", "dataset/clip-0001.wav: too short"),
        ("cannot open '/srv/someone/.cache/model.bin'", "cannot open 'model.bin'"),
        ("in /usr/lib/python3/site-packages/x.py:12", "in x.py:12"),
        ("first\n  second\r\nthird\x1b[31m\x00", "first; second; third [31m "),
        ("5 km/h and 1/2 of it, https://example.org/a/b", "5 km/h and 1/2 of it, https://example.org/a/b"),
        ("C:\\Users\\someone\\model.bin is missing", "model.bin is missing"),
        ("~/data/x.wav", "x.wav"),
        ("x" * 600, "x" * 499 + "…"),
    ],
)
def test_messages_are_one_line_without_the_host(text: str, shown: str) -> None:
    assert one_line(text, JOB) == shown
