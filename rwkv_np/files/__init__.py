"""What lies on a disk: model files, their types, downloads, and how a file is read and written safely.

Which parameters a model has, and what they mean, is told by `models/`; one file is made from
another by `conversion/`. Nothing here knows an architecture.
"""
