"""What a generated picture says of itself outside of the store: it is synthetic, by which model, of which run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from faceid_core import __version__

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PNG_KEYWORD = "XML:com.adobe.xmp"

# `trainedAlgorithmicMedia`: made by a model. With `compositeWith…` a photo is beside what a model made.
SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]


@dataclass(frozen=True)
class SyntheticMark:
    """The mark of a picture; it names no person.

    Attributes:
        model: Digest of the base model.
        run: Run id; empty for a picture that was drawn outside a run.
        source_type: IPTC's digital source type.

    Source: IPTC Photo Metadata Standard 2025.1 (Digital Source Type, AI System Used, AI System Version Used); Adobe XMP
    specification, part 3, on where it stands in PNG and JPEG files.
    """

    model: str
    run: str = ""
    source_type: SourceType = "trainedAlgorithmicMedia"

    def xmp(self) -> str:
        """The mark as an XMP packet."""
        attributes = {
            "Iptc4xmpExt:DigitalSourceType": _SOURCE_TYPES + self.source_type,
            "Iptc4xmpExt:AISystemUsed": f"faceid {__version__}",
            "Iptc4xmpExt:AISystemVersionUsed": f"base model {self.model}",
            **({"faceid:run": self.run} if self.run else {}),
        }
        written = " ".join(f"{name}={quoteattr(value)}" for name, value in attributes.items())
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            f'xmlns:faceid="urn:faceid:picture:1" {written}/>'
            '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
        )


def marked_png(image: np.ndarray, mark: SyntheticMark) -> bytes:
    """A PNG file of a picture uint8 [h, w, 3] with its mark; the pixels are those of the array."""
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt(_PNG_KEYWORD, mark.xmp())
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", compress_level=6, pnginfo=info)
    return buffer.getvalue()


def marked_jpeg(image: np.ndarray, mark: SyntheticMark, *, quality: int) -> bytes:
    """A JPEG file of a picture uint8 [h, w, 3] with its mark; its pixels are those of the same file without."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, xmp=mark.xmp().encode())
    return buffer.getvalue()
