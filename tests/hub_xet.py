"""Xet on the small Hub: tokens, and a content-addressed store that takes xorbs and shards and gives files back.

A xorb is a row of compressed chunks, each behind a head of 8 bytes; a shard says of which ranges of chunks a file
consists. The formats are those of the public specification of Xet.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator

from .hub_server import Handler

CAS_TOKEN = "cas-" + "T" * 20
_ENTRY = 48
_END = b"\xff" * 32
_WITH_VERIFICATION, _WITH_SHA256 = 1 << 31, 1 << 30
_SHARD_HEADER = 48


def name_of(raw: bytes) -> str:
    """The text form of a hash: four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def xet_token(at: Handler, body: bytes, name: str, kind: str, revision: str) -> None:
    """Hand out the store's address and a token for it, both as JSON and as headers."""
    if kind == "write" and not at.may_write():
        return
    if at.repo(name) is None:
        return
    address, until = f"{at.hub.endpoint}/cas", int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": CAS_TOKEN,
        "X-Xet-Token-Expiration": str(until),
    }
    at.json(200, {"casUrl": address, "accessToken": CAS_TOKEN, "exp": until}, headers)


def post_xorb(at: Handler, body: bytes, xorb: str) -> None:
    """Take a xorb."""
    known = xorb in at.hub.xorbs
    at.hub.xorbs[xorb] = body
    at.json(200, {"was_inserted": not known})


def post_shard(at: Handler, body: bytes) -> None:
    """Take a shard, and make each of its files a blob that a commit can name."""
    for file, ranges, sha in _files(body):
        at.hub.shards[file] = ranges
        at.hub.xet[sha] = file
        content = b"".join(
            data for xorb, start, end in ranges for _, _, data in _chunks(at.hub.xorbs[xorb])[start:end]
        )
        assert hashlib.sha256(content).hexdigest() == sha
        at.hub.blobs[sha] = content
    at.json(200, {"result": 1})


def reconstruction(at: Handler, body: bytes, file: str) -> None:
    """Tell how a file is put together."""
    terms, places = [], {}
    for xorb, start, end in at.hub.shards[file]:
        chunks = _chunks(at.hub.xorbs[xorb])[start:end]
        size = sum(len(data) for _, _, data in chunks)
        terms.append({"hash": xorb, "unpacked_length": size, "range": {"start": start, "end": end}})
        places.setdefault(xorb, []).append(
            {
                "range": {"start": start, "end": end},
                "url": f"{at.hub.endpoint}/xorb/{xorb}",
                "url_range": {"start": chunks[0][0], "end": chunks[-1][1] - 1},
            }
        )
    asked = at.headers.get("Range")
    if asked and int(asked.removeprefix("bytes=").split("-")[0]) >= sum(term["unpacked_length"] for term in terms):
        return at.send(416, b"", {})
    return at.json(200, {"offset_into_first_range": 0, "terms": terms, "fetch_info": places})


def get_xorb(at: Handler, body: bytes, xorb: str) -> None:
    """Give a range of a xorb."""
    first, last = at.headers["Range"].removeprefix("bytes=").split("-")
    content = at.hub.xorbs[xorb]
    part = content[int(first) : int(last) + 1]
    at.send(206, part, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def nothing(at: Handler, body: bytes, *_: str) -> None:
    """Answer that there is nothing: no chunk is known from elsewhere, and nobody measures."""
    at.json(404, {"error": "not found"})


def _files(shard: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]], str]]:
    """Read the files of a shard: name, ranges of chunks, SHA-256."""
    at = _SHARD_HEADER
    while shard[at : at + 32] != _END:
        flags, count = struct.unpack_from("<2I", shard, at + 32)
        file, ranges = name_of(shard[at : at + 32]), []
        for number in range(count):
            entry = at + _ENTRY * (1 + number)
            start, end = struct.unpack_from("<2I", shard, entry + 40)
            ranges.append((name_of(shard[entry : entry + 32]), start, end))
        at += _ENTRY * (1 + count * (2 if flags & _WITH_VERIFICATION else 1))
        assert flags & _WITH_SHA256
        yield file, ranges, name_of(shard[at : at + 32])
        at += _ENTRY


def _chunks(xorb: bytes) -> list[tuple[int, int, bytes]]:
    """Read the chunks of a xorb: first byte, end, content."""
    found, at = [], 0
    while at < len(xorb) and xorb[at : at + 7] != b"XETBLOB":
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        scheme, size = xorb[at + 4], int.from_bytes(xorb[at + 5 : at + 8], "little")
        end = at + 8 + packed
        data = xorb[at + 8 : end]
        if scheme:
            data = _lz4_frame(data)
        if scheme == 2:
            data = _joined(data)
        assert len(data) == size
        found.append((at, end, data))
        at = end
    return found


def _joined(data: bytes) -> bytes:
    """Undo the grouping by position in words of four bytes."""
    whole = bytearray(len(data))
    at = 0
    for place in range(4):
        count = len(range(place, len(data), 4))
        whole[place::4] = data[at : at + count]
        at += count
    return bytes(whole)


def _lz4_frame(frame: bytes) -> bytes:
    """Unpack an LZ4 frame."""
    flags = frame[4]
    at = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    out = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        at += 4
        block = frame[at : at + (size & 0x7FFFFFFF)]
        at += len(block) + (4 if flags & 0x10 else 0)
        if size >> 31:
            out += block
        else:
            _lz4_block(block, out)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    """Unpack an LZ4 block onto what came before."""
    at = 0

    def length(value: int) -> int:
        nonlocal at
        if value == 15:
            while True:
                more = block[at]
                at, value = at + 1, value + more
                if more != 255:
                    break
        return value

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            return
        distance = int.from_bytes(block[at : at + 2], "little")
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-distance])


XET_ROUTES: tuple = (
    ("GET", r"/api/models/([\w.-]+/[\w.-]+)/xet-(read|write)-token/(.+)", xet_token),
    ("POST", r"/cas/v1/xorbs/default/([0-9a-f]{64})", post_xorb),
    ("POST", r"/cas/v1/shards", post_shard),
    ("GET", r"/cas/v1/reconstructions/([0-9a-f]{64})", reconstruction),
    ("GET", r"/cas/v1/chunks/.+", nothing),
    (("GET", "POST"), r"/cas/v2/.+", nothing),
    ("GET", r"/xorb/([0-9a-f]{64})", get_xorb),
)
