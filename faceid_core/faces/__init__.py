"""From a photo to what training needs: find the face, align it, label its pixels, make the mask, judge it.

`protocols` says what a detector and a parser are; `backends` builds the two pairs that exist (the miniature's
own and DeepFace); `detect`, `parse` and `mask` are the three stages; `prepare` runs them one after another.
"""
