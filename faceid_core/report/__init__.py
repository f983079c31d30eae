"""Report pages: a private page per person, an index of the run that shows no face, contact sheets.

Functions take plain data and return bytes; they know no store. `plots` draws with `svg`, `overlays` lays masks and
attention over pictures, `figures` formats numbers, `rendering` fills the pages in `templates`.
"""
