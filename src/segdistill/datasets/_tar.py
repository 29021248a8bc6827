"""What lies where in an uncompressed tar file, from its headers alone; ustar, GNU and pax, of plain files and folders.

Whoever made the file is not trusted: what could lead elsewhere, or is not whole, is a mistake that names it. The
headers are walked through here because some make the standard library's reader go back to where it was, for ever.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from segdistill.mistakes import Mistake
from segdistill.run import cache_folder, write_json

FORMAT = 1
"""Of the remembered index."""
BLOCK = 512
LONGEST = 1 << 16
"""Bytes of a header's long name or pax records; real ones have some hundred."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"PK": "zip"}
KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}


class Member(NamedTuple):
    """A plain file in an archive."""

    name: str
    start: int
    size: int


class Index(NamedTuple):
    """The plain files of an archive in their order, and a digest of all headers: names, sizes, dates."""

    members: list[Member]
    digest: str


def index(shard: Path) -> Index:
    """What a tar file holds; remembered until its size or date changes.

    Raises:
        Mistake: it is no whole, uncompressed tar file of plain files, or cannot be read.
    """
    try:
        with shard.open("rb") as file:
            status = shard.stat()
            about = [FORMAT, status.st_size, status.st_mtime_ns]
            remembered = cache_folder() / "archives" / f"{hashlib.sha256(bytes(shard.resolve())).hexdigest()[:16]}.json"
            known = _known(remembered, about)
            if known is None:
                known = _walk(file, shard, status.st_size)
                with suppress(OSError):  # a full disk, or a home that may not be written: then it is read again
                    write_json(remembered, {"about": about, "digest": known.digest, "members": known.members})
            return known
    except OSError as error:
        raise Mistake(f"{shard}: unreadable ({error.strerror or error}); expected a tar file") from error


def _known(file: Path, about: list[int]) -> Index | None:
    """An index as it was remembered; None where it is absent, damaged or of another state of the archive."""
    try:
        content = json.loads(file.read_bytes())
        if content["about"] != about:
            return None
        members = [Member(str(name), int(start), int(size)) for name, start, size in content["members"]]
        sound = all(start > 0 and 0 <= size <= about[1] - start for _, start, size in members)
        return Index(members, str(content["digest"])) if sound else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _walk(file: BinaryIO, shard: Path, length: int) -> Index:
    digest = hashlib.sha256()
    members = list(_members(file, shard, length, digest.update))
    return Index(members, digest.hexdigest())


def _members(file: BinaryIO, shard: Path, length: int, seen: Callable[[bytes], None]) -> Iterator[Member]:
    """From header to header, all of which are `seen`; each is at least a block further than the one before."""
    begin = file.read(BLOCK)
    packing = next((name for magic, name in COMPRESSED.items() if begin.startswith(magic)), None)
    if packing is not None:
        raise Mistake(f"{shard}: compressed ({packing}); expected a plain tar file, in which a sample can be looked up")
    place = 0
    said: dict[str, str] = {}  # by the records before a header, of the member after it
    while True:
        file.seek(place)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise Mistake(f"{shard}: cut off after {length} bytes; expected two blocks of zeros at its end")
        if not any(header):
            break
        seen(header)
        kind, name, size = _header(header, shard, place)
        size = _number(said.get("size", size), shard, place)
        start = place + BLOCK
        if size > length - start:
            raise Mistake(f"{shard}: its header at byte {place} promises {size} bytes, {length - start} follow")
        place = start + -(-size // BLOCK) * BLOCK
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            if size > LONGEST:
                raise Mistake(f"{shard}: {size} bytes of records at byte {start}; accepted are at most {LONGEST}")
            content = file.read(size)
            seen(content)
            if kind == tarfile.GNUTYPE_LONGNAME:
                said["path"] = _text(content.rstrip(b"\0"), shard, start)
            elif kind != tarfile.XGLTYPE:  # global ones name a commit
                said |= _records(content, shard, start)
            continue
        name = _inside(said.get("path", name), shard)
        if kind in KINDS or any(word.startswith("GNU.sparse") for word in said):
            raise Mistake(f"{shard}: '{name}' is {KINDS.get(kind, 'a file with holes')}; expected plain files")
        said = {}
        if kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and name.endswith("/")):
            continue
        if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            raise Mistake(f"{shard}: '{name}' is of an unknown kind ({kind!r}); expected plain files")
        yield Member(name, start, size)
    while rest := file.read(1 << 20):
        if any(rest):
            raise Mistake(f"{shard}: something follows its end; expected one archive (tar --concatenate joins two)")


def _header(header: bytes, shard: Path, place: int) -> tuple[bytes, str, int]:
    """Kind, name and size; its checksum holds."""
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise Mistake(f"{shard}: no tar header at byte {place} ({error}); expected a whole tar file") from error
    return found.type, found.name, found.size


def _number(size: int | str, shard: Path, place: int) -> int:
    if isinstance(size, str) and not (size.isascii() and size.isdecimal() and len(size) < 20):
        raise Mistake(f"{shard}: the size of the member at byte {place} is {size[:40]!r}; expected a number")
    if int(size) < 0:
        raise Mistake(f"{shard}: the size of the member at byte {place} is {size}; expected at least 0")
    return int(size)


def _records(content: bytes, shard: Path, place: int) -> dict[str, str]:
    """Of pax: `27 path=a/long/name.jpg` and a line break, the number counting all of it."""
    found: dict[str, str] = {}
    while content:
        digits, _, rest = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        word, equals, value = rest[: max(0, length - len(digits) - 1)].partition(b"=")
        if not (equals and value.endswith(b"\n") and length <= len(content)):
            raise Mistake(f"{shard}: damaged pax records at byte {place}; expected a whole tar file")
        if word in (b"path", b"size") or word.startswith(b"GNU.sparse"):
            found[_text(word, shard, place)] = _text(value[:-1], shard, place)
        content = content[length:]
    return found


def _text(name: bytes, shard: Path, place: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise Mistake(f"{shard}: a name at byte {place} is not UTF-8; expected names in it") from error


def _inside(name: str, shard: Path) -> str:
    """The name without `./`; nothing here is written to a disk, but a name is a key and appears in reports."""
    if not name.isprintable() or name.startswith("/") or ".." in name.split("/"):
        raise Mistake(f"{shard}: a member is called {name[:100]!r}; expected a printable path within the archive")
    return name.removeprefix("./")
