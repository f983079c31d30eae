"""The record of one finished stage: `content` is what was made from what, `provenance` how it came about."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from .keys import FORMAT as STAGE_FORMAT
from .keys import StageCall, canonical_json, is_digest, sha256_hex, spelled

FORMAT = "faceid-manifest/1"
_PREIMAGE = {"format", "stage", "version", "parameters", "precision", "inputs", "weights"}
_MOST = 2**53  # larger counts and durations are no measurements
# How the parts of a stored manifest, which is canonical JSON, follow one another.
_CONTENT = b'{"content":'
_BEGIN = _CONTENT + b'{"outputs":'
_DIGEST = b',"content_sha256":"'
_FORMAT = b'","format":"%b",' % FORMAT.encode()


@dataclass(frozen=True)
class OutputRef:
    """One output: its name within the stage, the SHA-256 and size in bytes of its blob, its media type."""

    name: str
    digest: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Manifest:
    """A finished stage. Manifests with equal `content` are the same result; `provenance` is never compared.

    Attributes:
        stage: the stage's name.
        stage_key: SHA-256 of the preimage in `content`.
        content: {"preimage": ..., "outputs": [...]}.
        provenance: run, attempt, seconds, host, device, versions.
        inline: bytes of small outputs that the driver reads of every identity, by name. Their blobs stand all the same;
            a copy that is not what its output says is not there.
    """

    stage: str
    stage_key: str
    content: dict
    provenance: dict
    inline: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def outputs(self) -> Mapping[str, OutputRef]:
        """The outputs by name."""
        return MappingProxyType({row["name"]: OutputRef(**row) for row in self.content["outputs"]})

    def to_bytes(self) -> bytes:
        """The manifest as it is stored."""
        # Bit rot in a digest or a size would still be valid JSON; the content's own digest shows it.
        record = {
            "format": FORMAT,
            "content": self.content,
            "content_sha256": sha256_hex(canonical_json(self.content)),
            "provenance": self.provenance,
        }
        if self.inline:
            record["inline"] = {name: base64.b64encode(data).decode() for name, data in self.inline.items()}
        return canonical_json(record)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, stage: str, stage_key: str, preimage_format: str = STAGE_FORMAT
    ) -> Manifest:
        """Read and check a stored manifest.

        Args:
            data: as `to_bytes` made it.
            stage: where it was found.
            stage_key: under which key it was found.
            preimage_format: the format of its preimage; another one only for a store that is migrated.

        Raises:
            ValueError: saying what is wrong with it.
        """
        try:
            record = json.loads(data, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT}")
        content, provenance = record.get("content"), record.get("provenance")
        if not isinstance(content, dict) or not isinstance(provenance, dict):
            raise ValueError("content or provenance is not an object")
        preimage = content.get("preimage")
        whole, part = _spelled(content)
        if sha256_hex(whole) != record.get("content_sha256"):
            raise ValueError("its content does not match its own digest")
        if not isinstance(preimage, dict) or sha256_hex(part) != stage_key:
            raise ValueError("its key is not the digest of its preimage")
        if preimage.get("stage") != stage:
            raise ValueError(f"it belongs to stage {preimage.get('stage')!r}")
        _check_preimage(preimage, preimage_format)
        _check_outputs(content.get("outputs"))
        _check_provenance(provenance)
        found = cls(stage, stage_key, content, provenance)
        return replace(found, inline=_inline(record.get("inline"), found.outputs))

    @classmethod
    def of_call(cls, data: bytes, call: StageCall) -> Manifest | None:
        """As `from_bytes`, for who holds the call: nearly all of a manifest is its preimage, which need not be parsed.

        Returns:
            None if these are not the very bytes that `to_bytes` makes of a result of this call; `from_bytes` then
            says why, or finds that they mean the same.
        """
        middle = b',"preimage":%b}' % call.spelling
        at = data.find(middle, len(_BEGIN))
        rest = data[at + len(middle) :]
        if not data.startswith(_BEGIN) or at < 0 or not rest.startswith(_DIGEST) or rest[-1:] != b"}":
            return None
        content, digest, tail = (
            data[len(_CONTENT) : at + len(middle)],
            rest[len(_DIGEST) :][:64],
            rest[len(_DIGEST) + 64 :],
        )
        if sha256_hex(content).encode() != digest or not tail.startswith(_FORMAT):
            return None
        try:
            outputs = json.loads(data[len(_BEGIN) : at], parse_constant=_refuse_constant)
            record = json.loads(b"{" + tail[len(_FORMAT) :], parse_constant=_refuse_constant)
            _check_outputs(outputs)
            if not record.keys() <= {"inline", "provenance"} or not isinstance(
                record.get("provenance"), dict
            ):
                return None
            _check_provenance(record["provenance"])
        except (ValueError, RecursionError):
            return None
        content = {"outputs": outputs, "preimage": call.preimage()}
        found = cls(call.stage, call.key, content, record["provenance"])
        return replace(found, inline=_inline(record.get("inline"), found.outputs))


def _spelled(content: dict) -> tuple[bytes, bytes]:
    """Canonical JSON of a manifest's content and of the preimage in it, which is nearly all of it."""
    preimage = spelled(content.get("preimage"))
    if content.keys() != {"outputs", "preimage"}:
        return spelled(content), preimage
    return b'{"outputs":%b,"preimage":%b}' % (spelled(content["outputs"]), preimage), preimage


def _check_preimage(preimage: dict, preimage_format: str) -> None:
    """What a `StageCall` may be made of: a writer of the store can give any preimage a fitting key."""
    version = preimage.get("version")
    if preimage.keys() != _PREIMAGE or preimage["format"] != preimage_format:
        raise ValueError(f"its preimage is not of the format {preimage_format}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("its stage has no version")
    if not isinstance(preimage["parameters"], dict) or not isinstance(preimage["precision"], str):
        raise ValueError("its parameters or its precision are of another kind")
    for part in ("inputs", "weights"):
        if not isinstance(preimage[part], dict) or not all(map(is_digest, preimage[part].values())):
            raise ValueError(f"its {part} are no digests by name")


def _check_provenance(provenance: dict) -> None:
    """What others go by: names, times and the seconds that estimates are made from; the rest is only shown."""
    for name in ("run_id", "finished_at", "device"):
        if not isinstance(provenance.get(name, ""), str):
            raise ValueError(f"its provenance has no {name}")
    try:
        json.dumps(provenance, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("its provenance has half a character, which no terminal and no table takes") from None
    for name in ("seconds", "pictures_drawn"):
        figure = provenance.get(name, 0)
        if type(figure) not in (int, float) or not 0 <= figure <= _MOST:  # neither True nor what is no number
            raise ValueError(f"its provenance has no {name}")


def _check_outputs(outputs) -> None:
    if not isinstance(outputs, list):
        raise ValueError("its outputs are not a list")
    names = set()
    for row in outputs:
        if not isinstance(row, dict) or set(row) != {"name", "digest", "size", "media_type"}:
            raise ValueError("an output lacks a field")
        if not isinstance(row["name"], str) or row["name"] in names:
            raise ValueError("an output has no name of its own")
        if not is_digest(row["digest"]) or type(row["size"]) is not int or not 0 <= row["size"] <= _MOST:
            raise ValueError(f"output {row['name']} has no digest or size")
        if not isinstance(row["media_type"], str):
            raise ValueError(f"output {row['name']} has no media type")
        names.add(row["name"])


def _inline(copies, outputs: Mapping[str, OutputRef]) -> dict[str, bytes]:
    """The copies that are what their outputs say; a damaged one is left out, for its blob is there to be read."""
    found = {}
    for name, text in copies.items() if isinstance(copies, dict) else ():
        try:
            data = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            continue
        if name in outputs and sha256_hex(data) == outputs[name].digest:
            found[name] = data
    return found


def _refuse_constant(text: str):
    raise ValueError(f"it holds {text}")
