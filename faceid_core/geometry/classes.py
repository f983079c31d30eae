"""The classes of a face parser's pixels, shared by the renderer, the parsers and the masks."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "background", "skin", "hair", "eyes", "brows", "mouth", "neck", "clothes", "accessory", "object", "arm",
)  # fmt: skip

INDEX: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

# One color per class for overlays: far apart in hue for neighbors on a face.
COLORS: tuple[tuple[int, int, int], ...] = (
    (40, 40, 48), (240, 190, 150), (120, 70, 30), (60, 150, 240), (90, 50, 110), (220, 60, 90),
    (210, 160, 110), (70, 160, 90), (240, 220, 60), (150, 90, 220), (190, 130, 90),
)  # fmt: skip

# Classes of each mask region. Parsers label a beard as hair: `face` excludes it, `face_hair` includes it.
REGIONS: dict[str, tuple[str, ...]] = {
    "face": ("skin", "eyes", "brows", "mouth"),
    "face_hair": ("skin", "eyes", "brows", "mouth", "hair"),
    "head": ("skin", "eyes", "brows", "mouth", "hair", "accessory", "neck"),
}
