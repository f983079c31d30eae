"""The two sets of scorers: which shipped model plays which role in each; they share no network and no person."""

from __future__ import annotations

from collections.abc import Mapping

# What is published comes from these; no setting is chosen with them and no training mask made.
REPORTING = "miniature"
# These prepare the photos and their masks, and may be asked while settings are chosen.
SELECTION = "miniature-selection"

# Set -> role -> folder in weights/ and name in models.lock.
SETS: Mapping[str, Mapping[str, str]] = {
    REPORTING: {
        "detector": "reporting_detector",
        "parser": "reporting_parser",
        "recognizer": "reporting_recognizer",
        "image_text": "reporting_concepts",
    },
    SELECTION: {role: role for role in ("detector", "parser", "recognizer", "image_text")},
}
