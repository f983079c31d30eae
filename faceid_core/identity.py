"""Who is to be personalized: an identity, and the manifest (CSV, Parquet or folder of photos) of them."""

from __future__ import annotations

import datetime
import errno
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import manifest_rows, photos
from .errors import ConfigurationError, InputContractError, PhotoRejected, StoreError
from .manifest_rows import shown
from .missing_path import why_missing
from .photo_folder import LeftOut, photos_of, printable

MANIFEST_NAMES = ("identities.csv", "identities.parquet")
MOST_MANIFEST_BYTES = 256 * 1024 * 1024

ID_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
CLASS_WORD_PATTERN = r"[a-z]{1,32}( [a-z]{1,32})?"
_ID, _CLASS_WORD = re.compile(ID_PATTERN, re.ASCII), re.compile(CLASS_WORD_PATTERN, re.ASCII)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# What is before the last slash is opened as a store: '#' and '?' would end its address there, and an empty
# component would name another object than the one that is read.
_S3_FOLDER = re.compile(r"s3://[^/#?\[\]\s]+(/[^/#?\x00-\x1f]+)*")
# What opening a file says of its address; anything else is said of the disk or the mount.
_OF_THE_ADDRESS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, None,
}  # fmt: skip
_LINES_TOLD = 5
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://", re.ASCII)


@dataclass(frozen=True)
class Identity:
    """One person, animal or thing to personalize.

    Args:
        identity_id: opaque id, see `validate_identity_id`.
        photo: absolute path of a local file, or an `s3://` address.
        class_word: what the person is to the base model: "person", "man", "young woman" ...
        sha256: digest that the photo must have, 64 lower-case hex digits, or None.
        consent_ref: where the consent is recorded, free text, or None.
        consent_until: last day on which the photo may be used, or None.
        face_box: (x0, y0, x1, y1) in pixels of the upright photo: which face is meant, or None.
        subject_box: (x0, y0, x1, y1) around a subject that is no person, or None: no face is looked for.
        subject_mask: address of its mask, like `photo`, of the upright photo's size, white where it is; or None.
        line: line of the manifest (row for Parquet), from 1; None in a folder of photos.
    """

    identity_id: str
    photo: str
    class_word: str
    sha256: str | None = None
    consent_ref: str | None = None
    consent_until: datetime.date | None = None
    face_box: tuple[float, float, float, float] | None = None
    line: int | None = None
    subject_box: tuple[float, float, float, float] | None = None
    subject_mask: str | None = None

    def consent_expired(self, day: datetime.date) -> bool:
        """Whether a last day of consent is given and lies before `day`."""
        return self.consent_until is not None and self.consent_until < day


def is_identity_id(text: str) -> bool:
    """Whether `validate_identity_id` takes it."""
    return _ID.fullmatch(text) is not None


def validate_identity_id(text: str) -> str:
    """The id itself, if it may be one.

    Raises:
        ConfigurationError: unless it is 1 to 64 ASCII letters, digits, `.`, `_` or `-`, not beginning with
            `.` or `-` (it must be safe as a file name and as a command-line argument).
    """
    if not is_identity_id(text):
        raise ConfigurationError(
            f"identity id {shown(text)} is not allowed: 1 to 64 of A-Z a-z 0-9 . _ -, not . or - first"
        )
    return text


def validate_class_word(text: str) -> str:
    """The class word itself, if it may be one.

    Raises:
        ConfigurationError: unless it is one or two lower-case words.
    """
    if not _CLASS_WORD.fullmatch(text):
        raise ConfigurationError(
            f"class word {shown(text)} is not allowed: one or two lower-case words, as in young man"
        )
    return text


def read_manifest(source: str | Path, *, class_word: str = "person") -> list[Identity]:
    """Read who is to be personalized from a local CSV or Parquet file or a folder.

    A folder that holds `identities.csv` or `identities.parquet` is read through it; any other folder is a
    folder of photos, see `read_folder`. Relative photo paths count from the manifest's folder; absolute ones, and `..`,
    are allowed, because the owner of the machine writes a local manifest.

    Args:
        source: path of the file or folder.
        class_word: class word of all identities in a folder of photos.

    Returns:
        identities in the manifest's order (by file name for a folder of photos).

    Raises:
        InputContractError: with every problem of the manifest at once.
    """
    path = Path(source)
    if is_folder_of_photos(path):
        return read_folder(path, class_word=class_word)[0]
    if path.is_dir():
        inside = _manifests_in(path)
        if len(inside) > 1:
            raise InputContractError(
                str(path), ["holds both identities.csv and identities.parquet; keep one"]
            )
        path = inside[0]
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_MANIFEST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = "" if path.exists() else why_missing(str(source))
        said = getattr(error, "strerror", None) or error
        raise InputContractError(str(path), [f"cannot be read: {said}{why and f'; {why}'}"]) from error
    return parse_manifest(data, source=str(path), base=str(path.absolute().parent))


def is_folder_of_photos(path: Path) -> bool:
    """Whether a path is a folder without a manifest in it."""
    return path.is_dir() and not _manifests_in(path)


def _manifests_in(folder: Path) -> list[Path]:
    return [folder / name for name in MANIFEST_NAMES if (folder / name).is_file()]


def read_folder(folder: Path, *, class_word: str = "person") -> tuple[list[Identity], list[LeftOut]]:
    """The people of a folder of photos, by name, and the entries of the folder that are left out.

    Args:
        folder: a photo in it is a person with the file's name, a subfolder with one photo a person with the folder's.
        class_word: of all of them.

    Raises:
        InputContractError: the folder cannot be read, or holds no photo; with every entry that it holds instead.
        ConfigurationError: the class word is not allowed.
    """
    validate_class_word(class_word)
    try:
        found, left_out = photos_of(folder)
    except OSError as error:
        raise InputContractError(str(folder), [f"cannot be read: {error.strerror}"]) from error
    if not found:
        entries = [f"{printable(each.name)}: {each.sentence}" for each in left_out]
        raise InputContractError(str(folder), ["holds no photo", *entries])
    base = folder.absolute()
    return [Identity(each.identity_id, str(base / each.name), class_word) for each in found], left_out


def parse_manifest(data: bytes, *, source: str, base: str) -> list[Identity]:
    """Read a manifest that somebody else has fetched.

    Args:
        data: content of a CSV or Parquet file.
        source: its name, for messages.
        base: folder, or `s3://bucket/prefix`, from which relative photo paths count. Below an s3 base every
            photo must be in S3 too: a manifest from elsewhere must not name files of this machine.

    Raises:
        InputContractError: with every problem at once.
    """
    if len(data) > MOST_MANIFEST_BYTES:
        raise too_large_a_manifest(source)
    rows = manifest_rows.parquet_rows(data) if data[:4] == b"PAR1" else manifest_rows.csv_rows(data)
    return _collect(source, rows, base)


def too_large_a_manifest(source: str) -> InputContractError:
    """The error for a manifest of more bytes than any list of people has."""
    limit = MOST_MANIFEST_BYTES // 2**20
    return InputContractError(source, [f"is larger than {limit} MiB; cut it into several"])


def read_photo(identity: Identity, *, max_bytes: int = photos.MAX_BYTES) -> bytes:
    """The bytes of an identity's local photo.

    Raises:
        PhotoRejected: photo_missing, too_many_bytes or digest_mismatch.
        StoreError: the disk or the mount fails, which is no fault of the photo's.
        ValueError: for an `s3://` photo, which the object store reads (then call `check_digest`).
    """
    if identity.photo.startswith("s3://"):
        raise ValueError("an s3:// photo is read through the object store")
    where = "" if identity.line is None else f" (manifest line {identity.line})"
    path = Path(identity.photo)
    try:
        # A pipe or a device would block or never end.
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_ADDRESS:
            raise StoreError(
                f"The photo at the given address{where} cannot be read ({error.strerror}). Check the disk or the mount, "
                "and run again."
            ) from error
        raise PhotoRejected(
            "photo_missing", _missing_sentence(path, where), looked_for=identity.photo
        ) from error
    if len(data) > max_bytes:
        raise photos.too_many_bytes(len(data), max_bytes)
    return check_digest(identity, data)


def _missing_sentence(path: Path, where: str) -> str:
    """Why a photo was not read, without its path: the sentence goes where ids may not."""
    try:
        is_there = path.exists()
    except (OSError, ValueError):
        is_there = False
    why = "" if is_there else why_missing(str(path))
    return (
        f"There is no readable file at the given address{where}{why and f': {why}'}. Correct the path or add the photo; "
        "faceid plan names the path."
    )


def check_digest(identity: Identity, data: bytes) -> bytes:
    """The photo's bytes themselves, if they have the digest that the manifest asks for (or it asks for none).

    Raises:
        PhotoRejected: digest_mismatch.
    """
    if identity.sha256 is not None and hashlib.sha256(data).hexdigest() != identity.sha256:
        sentence = (
            "The photo is not the one that the manifest's sha256 names. Restore it or correct the digest."
        )
        raise PhotoRejected("digest_mismatch", sentence)
    return data


def _collect(source: str, rows: Iterator[manifest_rows.Row], base: str) -> list[Identity]:
    """Turn rows into identities, or raise all problems together."""
    identities: list[Identity] = []
    problems: list[tuple[int, str]] = []
    seen: dict[str, list[Identity]] = {}
    for line, row in rows:
        if isinstance(row, str):
            problems.append((line, row))
            continue
        identity, faults = _identity(line, row, base)
        problems += [(line, fault) for fault in faults]
        if identity is not None:
            identities.append(identity)
            seen.setdefault(identity.identity_id, []).append(identity)
    for name, same in seen.items():
        if len(same) > 1:
            lines = ", ".join(str(each.line) for each in same[:_LINES_TOLD])
            lines += f" and {len(same) - _LINES_TOLD} more" if len(same) > _LINES_TOLD else ""
            differ = len({each.photo for each in same}) > 1
            what = f"has {len(same)} photos" if differ else f"is listed {len(same)} times"
            problems.append(
                (same[1].line or 0, f"identity {name} {what} (lines {lines}); one photo per person")
            )
    if not identities and not problems:
        problems.append((0, "names no identity"))
    if problems:
        ordered = sorted(problems, key=lambda problem: problem[0])
        raise InputContractError(source, [f"line {line}: {text}" if line else text for line, text in ordered])
    return identities


def _identity(line: int, row: Mapping[str, str], base: str) -> tuple[Identity | None, list[str]]:
    """Check one row; a row at fault still gives an identity if it has an id, so that duplicates are seen."""
    faults: list[str] = []

    def attempt(column, parse):
        text = row.get(column, "")
        if not text:
            if column in manifest_rows.REQUIRED_COLUMNS:
                faults.append(f"{column} is empty")
            return None
        try:
            return parse(text)
        except (ConfigurationError, ValueError) as error:
            faults.append(str(error))
            return None

    identity_id = attempt("identity_id", validate_identity_id)
    photo = attempt("photo", lambda text: _photo_address(text, base))
    identity = Identity(
        identity_id=identity_id or "",
        photo=photo or "",
        class_word=attempt("class_word", validate_class_word) or "",
        sha256=attempt("sha256", _digest),
        consent_ref=row.get("consent_ref") or None,
        consent_until=attempt("consent_until", _date),
        face_box=attempt("face_box", parse_box),
        line=line,
        subject_box=attempt("subject_box", lambda text: parse_box(text, "subject_box")),
        subject_mask=attempt("subject_mask", lambda text: _photo_address(text, base, "subject_mask")),
    )
    if identity.face_box and (identity.subject_box or identity.subject_mask):
        faults.append(
            "face_box names a face, subject_box and subject_mask a subject without one; give either"
        )
    return (identity if identity_id else None), faults


def _photo_address(text: str, base: str, column: str = "photo") -> str:
    """Absolute local path or `s3://` address of the cell of a picture."""
    if text.startswith("s3://"):
        bucket, _, name = text[5:].partition("/")
        if not bucket or not name or name.endswith("/"):
            raise ValueError(f"{column} {shown(text)} is not an address of the form s3://bucket/name")
        return _readable(column, text)
    if _SCHEME.match(text):
        raise ValueError(f"{column} {shown(text)}: only local paths and s3:// addresses are read")
    if "\0" in text:
        raise ValueError(f"{column} {shown(text)} holds a zero character")
    if base.startswith("s3://"):
        if text.startswith("/") or ".." in text.split("/"):
            raise ValueError(f"{column} {shown(text)}: a manifest in S3 names photos in S3 only")
        return _readable(column, f"{base.rstrip('/')}/{text}")
    # `/` with an absolute right side is that right side.
    return str(Path(base) / text)


def _readable(column: str, address: str) -> str:
    """The `s3://` address itself, if its folder can be opened as a store."""
    if not _S3_FOLDER.fullmatch(address.rpartition("/")[0]):
        raise ValueError(
            f"{column} {shown(address)} cannot be read: its folders may hold no #, no ? and no empty part; "
            f"copy the {column.replace('_', ' ')} to a folder without"
        )
    return address


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"sha256 {shown(text)} is not 64 hexadecimal digits")
    return text.lower()


def _date(text: str) -> datetime.date:
    if _DATE.fullmatch(text):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError(f"consent_until {shown(text)} is not a date of the form 2027-12-31")


def parse_box(text: str, column: str = "face_box") -> tuple[float, float, float, float]:
    """A box written as "x0,y0,x1,y1" in pixels.

    Raises:
        ValueError: unless it holds four finite numbers with 0 <= x0 < x1 and 0 <= y0 < y1.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{column} {shown(text)} is not four numbers x0,y0,x1,y1") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise ValueError(f"{column} {shown(text)} needs 0 <= x0 < x1 and 0 <= y0 < y1")
    return x0, y0, x1, y1
