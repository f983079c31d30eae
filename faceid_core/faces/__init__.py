"""From a photo to training data: detect the face, align it, parse its pixels, make the mask, check the quality.

`backends` loads a detector and a parser (the miniature's, or DeepFace's and SegFormer's); `detect`, `parse` and `mask`
are the three stages; `prepare` runs them in one call. `geometry.protocols` defines detectors and parsers.
"""
