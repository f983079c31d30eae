"""What people look at: a private page per person, a run index without a pixel of a face, contact sheets.

Functions take plain data and return bytes; they know no store. `plots` draws with `svg`, `overlays` lays
masks and attention over pictures, `figures` says how a number is written, `templates` holds the pages.
"""
