"""Files that are nearly valid: bytes changed at random, and changes that know the format, with its lengths and checksums set right again.

Each change is a function of the content and of a `random.Random`; `mutated` draws one for a file by its name and content.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from robench.core.journal import sealed_lines
from robench.training.states import STATE_FORMAT

HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**9, 10**12)
BOMB = 2**31  # bytes that a packed member unpacks to
DEEP = 100_000  # levels
CANARY = "fuzz-canary"  # the file that payloads try to make; where it is there, code ran
NAMES = (
    "../outside/keep.txt",
    "/outside/keep.txt",
    "..",
    ".",
    "",
    "a\0b",
    "x" * 300,
    "é٣",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "<script>touch()</script>",
    '"><img src=x onerror=touch()>',
    "javascript:touch()",
    "evil.py:touch",
    "case/../evil.py:touch",
    "posix:system",
    "builtins:exec",
    "__import__('os').system('touch')",
    "${IFS}`touch`",
    "\x1b]0;x\x07",
    "\ud800",
    "nan",
    "1e999",
)


class Payload:
    """What pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@cache
def payloads() -> tuple[bytes, ...]:
    """Pickles that make the file CANARY where they are read as plain pickle: the well-known ways to run code."""
    import os
    import subprocess

    import numpy as np
    import torch

    make = f"open({CANARY!r}, 'w').close()"
    shell = f"touch {CANARY}"
    calls = [
        Payload(os.system, shell),
        Payload(exec, make),
        Payload(eval, f"open({CANARY!r}, 'w')"),
        Payload(subprocess.getoutput, shell),
        Payload(open, CANARY, "w"),
        Payload(os.mkdir, CANARY),
        Payload(torch.load, CANARY),
        Payload(np.fromfile, CANARY),
        Payload(__import__, "antigravity"),
        Payload(getattr, Payload(__import__, "os"), "system"),
    ]
    objects = [*calls, {"state": calls[0]}, [calls[1]], np.array([calls[0], 1], dtype=object), {"format": calls[0]}]
    texts = [
        f"cos\nsystem\n(S'{shell}'\ntR.".encode(),
        f"cposix\nsystem\n(V{shell}\ntR.".encode(),
        f"cbuiltins\nexec\n(V{make}\ntR.".encode(),
    ]
    return (*(pickle.dumps(each, protocol) for each in objects for protocol in (0, 2, 4)), *texts)


# Bytes of any format


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits are others."""
    letters = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        letters[rng.randrange(len(letters))] ^= 1 << rng.randrange(8)
    return bytes(letters)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Other bytes between."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((rng.randbytes(rng.choice((1, 4, 100))), b"\0" * 1000, b"9" * 5000, b"\xff" * 8)) + data[at:]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece stands twice, at another place, or is gone."""
    a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    at = rng.randrange(len(data) + 1)
    return rng.choice((data[:b] + data[a:], data[:at] + data[a:b] + data[at:], data[:a] + data[b:]))


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A number is huge."""
    size, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
    at = rng.randrange(max(1, len(data) - size))
    return data[:at] + (rng.choice(HUGE) % 256**size).to_bytes(size, order) + data[at + size :]


def other_content(data: bytes, rng: random.Random) -> bytes:
    """Something else under the name."""
    return rng.choice(
        (
            b"",
            b"\0",
            b"{}",
            b"[]",
            b"null",
            b"PK\x05\x06" + b"\0" * 18,
            b"\x80\x02}.",
            rng.randbytes(200),
            b"\x93NUMPY",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            data + data,
        )
    )


BYTES = (flip, flip, cut, insert, splice, overwrite, other_content)


# JSON


def any_value(rng: random.Random) -> Any:
    """A value of any type."""
    return rng.choice(
        (
            None,
            True,
            -1,
            0,
            0.5,
            1e308,
            float("nan"),
            float("inf"),
            rng.choice(HUGE),
            10**400,
            [],
            {},
            [[]],
            {"": {}},
            [1, "a", None],
            "text",
            rng.choice(NAMES),
        )
    )


def changed_value(value: Any, rng: random.Random) -> Any:
    """A JSON value of which one node is another, is gone, or stands twice."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        rest = {name: its for name, its in value.items() if name != key}
        return rng.choice(
            (
                rest,
                {**value, key: any_value(rng)},
                {**rest, rng.choice(NAMES): value[key]},
                *[{**value, key: changed_value(value[key], rng)}] * 5,
            )
        )
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return rng.choice(
            (
                [*value[:at], *value[at + 1 :]],
                [*value, value[at]],
                value * 50,
                *[[*value[:at], changed_value(value[at], rng), *value[at + 1 :]]] * 4,
            )
        )
    return any_value(rng)


def json_bytes(value: Any) -> bytes:
    """JSON, with surrogates as they are."""
    return json.dumps(value).encode()


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """JSON with one node another, or nested without end."""
    if rng.random() < 0.05:
        return rng.choice((b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP))
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = changed_value(value, rng)
    text = json_bytes(value)
    return text.replace(b'"text"', b"[" * DEEP + b"]" * DEEP) if rng.random() < 0.05 else text + b"\n"


def changed_state_lines(data: bytes, rng: random.Random) -> bytes:
    """The state of a run with one entry another, and its checksums right."""
    entries = [json.loads(line) for line in data.splitlines()]
    for entry in entries:
        entry.pop("check", None)
    at = rng.randrange(len(entries))
    for _ in range(rng.choice((1, 1, 2))):
        entries[at] = changed_value(entries[at], rng)
    if rng.random() < 0.1:
        entries = rng.choice((entries[:at], entries * 2, entries[::-1]))
    if not all(isinstance(entry, dict) for entry in entries):
        return b"".join(json_bytes(entry) + b"\n" for entry in entries)
    return sealed_lines(entries)


# Text


def changed_table(data: bytes, rng: random.Random) -> bytes:
    """CSV with a cell, a column or a line another."""
    lines = [line.split(b",") for line in data.split(b"\n")]
    row, cell = (
        rng.choice(lines),
        rng.choice(
            (
                b"",
                b"nan",
                b"-1",
                b"1e400",
                b"inf",
                b"9" * 5000,
                b'"',
                b'"a\nb"',
                b"\0",
                b"x" * 200_000,
                b"1.5",
                *(name.encode("utf-8", "replace") for name in NAMES),
            )
        ),
    )
    match rng.randrange(7):
        case 0 | 1 | 2:
            row[rng.randrange(len(row))] = cell
        case 3:
            at = rng.randrange(len(lines[0]))
            lines = [[*line[:at], *line[at + 1 :]] for line in lines]
        case 4:
            lines = [[*line, cell] for line in lines]
        case 5:
            lines[lines.index(row)] = row * rng.choice((2, 10**5))
        case _:
            lines = rng.choice((lines * 2, lines[1:], lines[:1], lines[::-1]))
    return b"\n".join(b",".join(line) for line in lines)


def changed_words(data: bytes, rng: random.Random) -> bytes:
    """Text with one word another."""
    words = data.split(b"\n")
    at = rng.randrange(len(words))
    piece = rng.choice(
        (
            *(name.encode("utf-8", "replace") for name in NAMES),
            b"0",
            b"-1",
            b"9" * 5000,
            b"pgd,steps=1e99",
            b"pgd-" + b"9" * 400,
            b" on " * 300,
            b"fgsm on " * 2000 + b"fgsm",
            b"\xff\xfe",
            b"a,b=c",
            b"pgd=" + b"[" * 3000,
            b"x.txt",
            b"pgd,eps=nan",
            b"\x00",
        )
    )
    words[at] = rng.choice((piece, words[at] + piece, piece + words[at], words[at].replace(b"=", b"," + piece + b"=", 1)))
    return b"\n".join(words)


# Arrays


def npy_bytes(header: str, body: bytes, version: int = 1) -> bytes:
    """A .npy file with this header."""
    text = header.encode("latin1", "replace") + b"\n"
    return (
        b"\x93NUMPY"
        + bytes((version, 0))
        + struct.pack("<H" if version == 1 else "<I", len(text) % (2**16 if version == 1 else 2**32))
        + text
        + body
    )


def changed_array(data: bytes, rng: random.Random) -> bytes:
    """A .npy file with another shape, type or order in its header."""
    size = struct.unpack("<H", data[8:10])[0]
    header, body = data[10 : 10 + size].decode("latin1").strip(), data[10 + size :]
    shape = rng.choice(
        (
            "(1000000000, 3, 32, 32)",
            "(0,)",
            "()",
            "(-1, 3)",
            "(1e9,)",
            "(18446744073709551616,)",
            "(True,)",
            "(2, 3, 4, 4)",
            "(" * 3000,
            "(1,)*9",
            "('a',)",
            "(4,)",
        )
    )
    descr = rng.choice(
        (
            "'|O'",
            "'<f8'",
            "'<M8[s]'",
            "'|V100'",
            "'<U1000000000'",
            "[('a', '<f4'), ('b', '|O')]",
            "'|S0'",
            "'>f4'",
            "'<c16'",
            "'<f2'",
            "__import__('os')",
            "'<x9'",
            "{}",
        )
    )
    match rng.randrange(6):
        case 0 | 1:
            header = header[: header.index("'shape':")] + f"'shape': {shape}, }}"
        case 2 | 3:
            header = header.replace(header.split("'descr': ")[1].split(", 'fort")[0], descr)
        case 4:
            header = header.replace("False", rng.choice(("True", "None", "0")))
        case _:
            return rng.choice(
                (
                    data[:6] + bytes((rng.randrange(5), 0)) + data[8:],
                    b"\x93NUMPY\x02\x00" + struct.pack("<I", rng.choice((2**32 - 1, 2**31))) + data[10:],
                    npy_bytes(header, body, 2),
                    npy_bytes(header, rng.choice(payloads())),
                )
            )
    return npy_bytes(header, body)


def changed_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another node in its header, and its length right."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    value = json.loads(header)
    if rng.random() < 0.5:
        key = rng.choice([key for key in value if key != "__metadata__"])
        value[key]["shape"] = rng.choice(([10**9, 3, 32, 32], [-1], [2**64], [], [0], [1] * 70, "a"))
        if rng.random() < 0.5:
            value[key]["data_offsets"] = rng.choice(([0, 10**15], [5, 1], [0, len(body)], [-1, 3], [2**64, 2**65]))
        if rng.random() < 0.3:
            value[key]["dtype"] = rng.choice(("F64", "BOOL", "I8", "F8_E4M3", "X", 3, "BF16"))
    header = json_bytes(value) if rng.random() < 0.6 else changed_json(header, rng)
    return len(header).to_bytes(8, "little") + header + body


# Pictures


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@cache
def zeros(count: int) -> bytes:
    """So many zeros as zlib packs them."""
    packer, block = zlib.compressobj(1), b"\0" * 2**20
    return b"".join(packer.compress(block) for _ in range(count // 2**20)) + packer.flush()


def changed_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG file with a chunk another, its checksum right: giant sizes, texts that unpack to a gigabyte, other types."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    header = chunks[0][1]
    match rng.randrange(7):
        case 0 | 1:
            wide, high = rng.choice(
                ((2**31 - 1, 2**31 - 1), (30_000, 30_000), (12_000, 12_000), (9_500, 9_500), (0, 9), (2**31 - 1, 1), (1, 10**8))
            )
            chunks[0] = (b"IHDR", struct.pack(">II", wide, high) + header[8:])
        case 2:
            chunks[0] = (b"IHDR", header[:8] + bytes(rng.randrange(17) for _ in range(5)))
        case 3:
            bomb = zeros(2**28)
            chunks.insert(
                1,
                rng.choice(
                    (
                        (b"zTXt", b"a\0\0" + bomb),
                        (b"iTXt", b"a\0\1\0\0\0" + bomb),
                        (b"iCCP", b"a\0\0" + bomb),
                        (b"eXIf", b"MM\0*" + b"\xff" * 60),
                    )
                ),
            )
        case 4 if rng.random() < 0.15:
            chunks = [
                (b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)),
                (b"IDAT", zeros(9_000 * 27_001 // 2**20 * 2**20 + 2**20)),
                (b"IEND", b""),
            ]
        case 5:
            place = rng.randrange(len(chunks))
            chunks[place] = (chunks[place][0], rng.choice(BYTES)(chunks[place][1] or b"\0", rng))
        case _:
            place = rng.randrange(len(chunks))
            chunks = rng.choice(
                (
                    chunks[:place] + chunks[place + 1 :],
                    chunks[:place] + [chunks[place]] * 3 + chunks[place:],
                    [*chunks, (b"tRNS", rng.randbytes(5))],
                )
            )
    return data[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


# Shards and parquet files


def tar_headers(data: bytes) -> list[int]:
    """Where headers of a tar file begin."""
    return [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]


def changed_tar(data: bytes, rng: random.Random) -> bytes:
    """A tar file with a header another, its checksum right: giant and negative sizes, other kinds, names that lead elsewhere."""
    at = rng.choice(tar_headers(data))
    header = bytearray(data[at : at + 512])
    match rng.randrange(6):
        case 0 | 1:
            size = rng.choice(
                (
                    b"77777777777\0",
                    b"\x80" + b"\xff" * 11,
                    b"\xff" * 12,
                    b"\x80" + bytes(3) + b"\x7f" + bytes(7),
                    b"nan".ljust(12),
                    b"-1".ljust(12),
                )
            )
            header[124:136] = size
        case 2:
            header[156:157] = rng.choice([bytes([each]) for each in b"01234567xgLKSDVX\0A"])
        case 3:
            header[:100] = rng.choice(NAMES).encode("utf-8", "surrogatepass")[:100].ljust(100, b"\0")
        case 4:
            rest = rng.choice(
                (b"99 size=1\n", b"20 size=99999999999\n", b"-5 path=x\n", b"9" * 400 + b" a=b\n", b"21 GNU.sparse.map=1,\n", b"\xff" * 30)
            )
            return data[: at + 512] + rest.ljust(512, b"\0") + data[at + 1024 :]
        case _:
            field = rng.choice(((100, 8), (108, 8), (136, 12), (157, 100), (345, 155)))
            header[field[0] : sum(field)] = rng.randbytes(field[1])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def changed_parquet(data: bytes, rng: random.Random) -> bytes:
    """A parquet file with its footer, or the data before it, another, and the length of the footer right."""
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    if rng.random() < 0.7:
        footer = rng.choice(BYTES[:-1])(footer, rng)
    else:
        body = b"PAR1" + rng.choice((flip, overwrite))(body[4:], rng)
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


# Archives and pickles


def changed_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle that calls something else, whose numbers are huge, or whose bytes are others."""
    match rng.randrange(6):
        case 0:
            return rng.choice(payloads())
        case 1:
            name = rng.choice((b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"))
            other = rng.choice(
                (
                    b"cos\nsystem\n",
                    b"cbuiltins\nexec\n",
                    b"ctorch\nload\n",
                    b"ctorch._utils\n_rebuild_sparse_tensor\n",
                    b"ctorch\nzeros\n",
                    b"cnumpy.core.multiarray\n_reconstruct\n",
                    b"ctorch._utils\n_rebuild_parameter\n",
                    b"ctorch\nDoubleStorage\n",
                    b"cevil\ntouch\n",
                    b"ctorch\nSize\n",
                )
            )
            return data.replace(name, other, rng.choice((1, -1)))
        case 2 | 3:
            places = [at for at, byte in enumerate(data) if byte in b"KMJ" and at + 5 < len(data)]
            if not places:
                return flip(data, rng)
            at = rng.choice(places)
            size = {75: 1, 77: 2, 74: 4}[data[at]]
            new = rng.choice(
                (
                    b"J\xff\xff\xff\x7f",
                    b"J\xff\xff\xff\xff",
                    b"\x8a\x05\x00\xe4\x0b\x54\x02",
                    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
                    b"K\x00",
                    b"N",
                    b"(lp0\n",
                    b"J\x00\x00\x00\x10",
                )
            )
            return data[:at] + new + data[at + 1 + size :]
        case _:
            return rng.choice((flip, cut, insert, splice))(data, rng)


def changed_archive(data: bytes, rng: random.Random) -> bytes:
    """A zip file with a member changed as its kind is, renamed, packed from zeros, twice or gone; checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content, packing = members[at]
    match rng.randrange(12):
        case 0:
            return rng.choice((flip, overwrite))(data, rng)
        case 1:
            end = data.rindex(b"PK\x01\x02")
            return data[:end] + overwrite(data[end:], rng)
        case 2:
            members[at] = (
                rng.choice(
                    (
                        "../outside/planted",
                        "/outside/planted",
                        "a" * 70_000,
                        "x\0y",
                        name.upper(),
                        "data.pkl",
                        "archive/constants.pkl",
                        "archive/.data/serialization_id",
                    )
                ),
                content,
                packing,
            )
        case 3:
            members = rng.choice((members[:at] + members[at + 1 :], [*members, members[at]], members[::-1]))
        case 4:
            members[at] = (name, content, rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
        case 5 if rng.random() < 0.2:
            members[at] = (name, content[:128] if name.endswith(".npy") else b"", -1)
        case _:
            members[at] = (name, changed_member(name, content, rng), packing)
    return zip_bytes(members)


def changed_member(name: str, content: bytes, rng: random.Random) -> bytes:
    """The content of a member changed as its kind is."""
    if name.endswith(".pkl"):
        return changed_pickle(content, rng)
    if name.endswith(".npy"):
        return changed_array(content, rng)
    return rng.choice(BYTES)(content or b"\0", rng)


def zip_bytes(members: list[tuple[str, bytes, int]]) -> bytes:
    """A zip file; packing -1 stands for a member that goes on with BOMB zeros."""
    import warnings

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content, packing in members:
            archive.writestr(zipfile.ZipInfo(name[:65_535]), content, zipfile.ZIP_STORED if packing == -1 else packing)
    return with_bomb(file.getvalue(), members) if any(packing == -1 for *_, packing in members) else file.getvalue()


def with_bomb(data: bytes, members: list[tuple[str, bytes, int]]) -> bytes:
    """The archive again, with the marked member packed from its begin and a quarter of BOMB zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content, packing in members:
            if packing != -1:
                archive.writestr(zipfile.ZipInfo(name), content, packing)
                continue
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info._compresslevel = 1
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(BOMB // 2**23):
                    member.write(b"\0" * 2**21)
    return file.getvalue()


def changed_training_state(data: bytes, rng: random.Random) -> bytes:
    """The state of a training with its archive changed, and its checksum right."""
    start = len(STATE_FORMAT) + 65
    body = changed_archive(data[start:], rng)
    return STATE_FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


CHANGES = {  # by what a file begins with, or its name ends with
    STATE_FORMAT: changed_training_state,
    b"PK": changed_archive,
    b"\x93NUMPY": changed_array,
    b"\x89PNG": changed_png,
    b"PAR1": changed_parquet,
    ".tar": changed_tar,
    b"\x80": changed_pickle,
    ".safetensors": changed_safetensors,
    ".jsonl": changed_state_lines,
    ".json": changed_json,
    ".whole": changed_json,
    ".csv": changed_table,
    ".txt": changed_words,
}


def knowing_change(name: str, data: bytes) -> Callable[[bytes, random.Random], bytes]:
    """The change that knows the format of a file, by its content and name."""
    signs = (sign for sign in CHANGES if (data.startswith(sign) if isinstance(sign, bytes) else name.endswith(sign)))
    return next((CHANGES[sign] for sign in signs), flip)


def mutated(name: str, data: bytes, rng: random.Random) -> bytes:
    """A file that is nearly what it was.

    Args:
        name: its name, whose end tells the format.
        data: what a valid file of the kind holds.
        rng: what the changes are drawn from.
    """
    change = knowing_change(name, data) if rng.random() < 0.65 else rng.choice(BYTES)
    try:
        new = change(data, rng)
        if rng.random() < 0.1:
            new = rng.choice(BYTES)(new or b"\0", rng)
    except (ValueError, KeyError, IndexError, struct.error, zipfile.BadZipFile):  # a change of what is no longer of the format
        new = flip(data, rng)
    return new
