"""Where a face lies in a picture: boxes, landmarks, alignment, and the classes of a parsed crop."""
