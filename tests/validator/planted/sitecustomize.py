"""A planted fault, switched on by a test that puts this folder on PYTHONPATH: records at which the decoder misbehaves.

A value that holds `poison-crash` ends the process in native code, `poison-hang` never returns, `poison-raise` raises.
"""

from __future__ import annotations

import ctypes
import threading

from pipeline import decode

_decode_batch = decode.Decoder.decode_batch


def decode_batch(self, values, offsets, append_ms):
    for value in values:
        if value and b"poison-" in value:
            if b"poison-crash" in value:
                ctypes.string_at(0)
            if b"poison-hang" in value:
                threading.Event().wait()
            if b"poison-raise" in value:
                raise ZeroDivisionError("planted")
    return _decode_batch(self, values, offsets, append_ms)


decode.Decoder.decode_batch = decode_batch
