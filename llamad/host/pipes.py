"""Reading a pipe without emptying it: what was read stays until it is dropped; a reader that dies loses nothing."""

import ctypes
import os

_SPLICE_F_NONBLOCK = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


def peek(pipe: int, size: int) -> bytes:
    """Up to `size` bytes of `pipe`, which stay in it, by tee(2); empty at the end of it. BlockingIOError where nothing
    is there, another OSError where it is no pipe or no descriptor is left.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        copied = _libc.tee(pipe, write_end, size, _SPLICE_F_NONBLOCK)
        if copied < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))  # EAGAIN makes it a BlockingIOError
        return os.read(read_end, copied) if copied else b""
    finally:
        os.close(read_end)
        os.close(write_end)


def drop(pipe: int, size: int) -> None:
    """Take `size` bytes out of `pipe` that were peeked at before."""
    while size > 0:
        size -= len(os.read(pipe, size))
