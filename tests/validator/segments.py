"""Batches in the segment files of a stopped broker: found, and broken in two ways that no client can open."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.broker import Broker

CRC_AT, CODED_AT, PAYLOAD_AT = 17, 21, 61  # bytes of a v2 batch: checksum, what it covers, compressed records


@dataclass(frozen=True)
class Batch:
    file: Path
    at: int  # byte in the file
    size: int
    first: int  # offsets [first, end)
    end: int


def batches(broker: Broker, topic: str, partition: int) -> list[Batch]:
    found = []
    for file in sorted((broker.directory / "data" / f"{topic}-{partition}").glob("*.log")):
        data, at = file.read_bytes(), 0
        while at + PAYLOAD_AT <= len(data):
            first, length = struct.unpack_from(">qi", data, at)
            if length <= 0:
                break
            (last,) = struct.unpack_from(">i", data, at + 23)
            found.append(Batch(file, at, length + 12, first, first + last + 1))
            at += length + 12
    return found


def spoil(batch: Batch, *, checksum: bool) -> None:
    """Flip bytes of the records. With `checksum` it no longer fits them; without, it is made to fit again."""
    data = bytearray(batch.file.read_bytes())
    end = batch.at + batch.size
    for at in range(batch.at + PAYLOAD_AT, min(end, batch.at + PAYLOAD_AT + 12)):
        data[at] ^= 0xFF
    if not checksum:
        struct.pack_into(">I", data, batch.at + CRC_AT, crc32c(data[batch.at + CODED_AT : end]))
    batch.file.write_bytes(data)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ 0x82F63B78 if byte & 1 else byte >> 1
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, which Kafka's batches carry.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
