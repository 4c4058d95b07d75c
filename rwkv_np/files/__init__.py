"""Files on disk: model files, their types, downloads, and safe reading and writing.

`models/` knows which parameters a model has and what they mean; `conversion/` makes one file from
another. Nothing here depends on an architecture.
"""
