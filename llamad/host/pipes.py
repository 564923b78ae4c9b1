"""Reading a pipe without emptying it: what was read stays until it is dropped; a reader that dies loses nothing."""

import ctypes
import os

_SPLICE_F_NONBLOCK = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t
_copy_out, _copy_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
"""What tee(2) copies to, always empty between two calls. It is made once: output is read, and the end of a child seen,
when there is no descriptor left too.
"""


def peek(pipe: int, size: int) -> bytes:
    """Up to `size` bytes of `pipe`, which stay in it, by tee(2); empty at the end of it. BlockingIOError where nothing
    is there, another OSError where it is no pipe. Not for several threads at once.
    """
    copied = _libc.tee(pipe, _copy_in, size, _SPLICE_F_NONBLOCK)
    if copied < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))  # EAGAIN makes it a BlockingIOError
    return os.read(_copy_out, copied) if copied else b""


def drop(pipe: int, size: int) -> None:
    """Take `size` bytes out of `pipe` that were peeked at before."""
    while size > 0:
        size -= len(os.read(pipe, size))
