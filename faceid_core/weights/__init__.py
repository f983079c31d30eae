"""Weights that do not ship: what is known of them, where they lie, how they are brought, and that nothing else is.

`catalog` lists the files of the scorers and detectors for photographs, `locate` finds and checks them,
`deepface_files` hands them to DeepFace and keeps it from downloading; `needs` says what a configuration wants,
`fetch` and `transports` bring it.
"""
