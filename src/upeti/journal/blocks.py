"""The journal's bytes on disk, shared by the writer and every reader. No input or output.

A segment file ``{data_dir}/journal/{instance}/{number:08d}.upj`` is a sequence of blocks. A block is a header
(magic, payload length, CRC-32 of the payload, SHA-256 digest) and a payload, a MessagePack array of records.
The digest is ``sha256(previous digest + payload)``; the chain starts at ``GENESIS`` and runs on through all
segments of an instance, so nothing can be changed, left out or moved unseen.

An incomplete last block is a *torn tail*: the process was killed within a write, nothing in it was promised
to anyone, and it is left out. Everything else that does not fit is damage.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from upeti.core.errors import JournalError
from upeti.core.events import Record, SegmentClosed

MAGIC: Final = b"UPJ1"
HEADER: Final = struct.Struct("<4sII32s")  # magic, payload bytes, CRC-32 of the payload, digest
GENESIS: Final = bytes(32)  # what the first digest of an instance is chained to
SEGMENT_SUFFIX: Final = ".upj"
KEEPER_PREFIX: Final = "keeper-"  # of instances that hold AttemptRecovered records

Block = tuple[int, int, bytes, list[Record]]  # offset of the header, offset past the payload, digest, records

_HEADER_BYTES: Final = HEADER.size
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode
_sha256 = hashlib.sha256
_pack = HEADER.pack


class TailDamageError(JournalError):
    """The last block is complete in length but does not fit its checksum, and no sound block follows it.

    Bit rot looks like this, and so does a power loss before the block was on the disk.
    """


def journal_dir(data_dir: Path) -> Path:
    return data_dir / "journal"


def captured_dir(data_dir: Path) -> Path:
    """Return the directory below which captures of pairs have their journals."""
    return data_dir / "captured"


def instance_dir(data_dir: Path, instance: str) -> Path:
    return data_dir / "journal" / instance


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of segment ``number`` in an instance's ``directory``."""
    return directory / f"{number:08d}{SEGMENT_SUFFIX}"


def segment_number(path: Path) -> int:
    """Raises ``JournalError`` when the file's name is not a segment's."""
    if path.suffix != SEGMENT_SUFFIX or len(path.stem) < 8 or not path.stem.isdecimal():
        raise JournalError(f"{path.name} is not the name of a segment; move it out of {path.parent}")
    return int(path.stem)


def encode_block(previous_digest: bytes, records: list[Record]) -> tuple[bytes, bytes]:
    """Return the bytes of a block, header and payload, and its digest."""
    payload = _encode(records)
    digest = _sha256(previous_digest + payload).digest()
    return _pack(MAGIC, len(payload), crc32(payload), digest) + payload, digest


def decode_blocks(data: bytes, previous_digest: bytes, *, offset: int = 0, base: int = 0) -> Iterator[Block]:
    """Yield every block of ``data`` from ``offset`` on; ``base`` is where ``data`` begins in its file.

    Offsets yielded and named in errors are the file's. Ends without an error at a torn tail: what comes
    after the last yielded end is torn. Raises ``JournalError`` for damage, and its kind ``TailDamageError``
    where no sound block follows.
    """
    size = len(data)
    while offset < size:
        body = offset + _HEADER_BYTES
        if body > size:
            if not _could_be_torn_header(data[offset:]):
                raise JournalError(f"byte {base + offset}: this is no block; {_CURE}")
            return
        magic, length, crc, digest = HEADER.unpack_from(data, offset)
        end = body + length
        if magic != MAGIC:
            if not any(data[offset:]):
                return  # a file system that lost power after growing the file shows zeros
            raise _damage(data, offset, base, "this is no block")
        if end > size:
            if _sound_block_after(data, body) or _length_is_damaged(data, body, crc):
                raise JournalError(f"byte {base + offset}: the block's length is damaged; {_CURE}")
            return
        payload = data[body:end]
        if crc32(payload) != crc:
            raise _damage(data, offset, base, "the block's checksum does not fit")
        if _sha256(previous_digest + payload).digest() != digest:
            raise JournalError(f"byte {base + offset}: the chain of digests is broken; {_CURE}")
        try:
            records = _decode(payload)
        except msgspec.DecodeError as error:
            raise JournalError(f"byte {base + offset}: the block holds no records ({error})") from error
        yield base + offset, base + end, digest, records
        previous_digest = digest
        offset = end


def ends_closed(tail: bytes) -> bool:
    """Tell from the last bytes of a segment, at least a few hundred, whether it was ended on purpose.

    The writer gives SegmentClosed a block of its own, so it is found without reading the segment. Raises
    ``msgspec.DecodeError`` when the last block holds no records.
    """
    offset = tail.rfind(MAGIC)
    while offset >= 0:
        body = offset + _HEADER_BYTES
        if body <= len(tail):
            _, length, crc, _ = HEADER.unpack_from(tail, offset)
            if body + length == len(tail) and crc32(tail[body:]) == crc:
                return any(isinstance(record, SegmentClosed) for record in _decode(tail[body:]))
        offset = tail.rfind(MAGIC, 0, offset)
    return False


_CURE = "restore this file from a copy, `upeti journal verify` shows what is lost"


def _damage(data: bytes, offset: int, base: int, what: str) -> JournalError:
    kind = JournalError if _sound_block_after(data, offset + 1) else TailDamageError
    return kind(f"byte {base + offset}: {what}; {_CURE}")


def _could_be_torn_header(rest: bytes) -> bool:
    return rest[:4] == MAGIC[: len(rest[:4])] or not any(rest)


def _length_is_damaged(data: bytes, body: int, crc: int) -> bool:
    """Tell a wrong length from a torn tail: no beginning of a torn payload has the checksum of the whole."""
    running, start = 0, body
    for end in (*_magics(data, body), len(data)):
        running = crc32(data[start:end], running)
        if running == crc:
            return True
        start = end
    return False


def _sound_block_after(data: bytes, start: int) -> bool:
    for offset in _magics(data, start):
        body = offset + _HEADER_BYTES
        if body <= len(data):
            _, length, crc, _ = HEADER.unpack_from(data, offset)
            if body + length <= len(data) and crc32(data[body : body + length]) == crc:
                return True
    return False


def _magics(data: bytes, start: int) -> Iterator[int]:
    offset = data.find(MAGIC, start)
    while offset >= 0:
        yield offset
        offset = data.find(MAGIC, offset + 1)
