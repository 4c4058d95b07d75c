"""Installed models: found by name, downloaded, listed and removed.

needs   the size of a model's file and its memory, by shape and type
kept    the folder: which models are in it, and which file a name refers to
origin  what a model is made from: a row in the table of published models, an address, a file
room    whether it fits on the disk and in memory
making  from a checkpoint to an installed model
installing  a GGUF file, which is installed as it is

A folder holds one folder for each name:

    NAME/STEM-TYPE.bin   a model; STEM is its checkpoint's name, which tells the chat World from G1
    NAME/STEM.gguf       one that was downloaded as it is
    NAME/STEM.pth        its checkpoint, with --keep-checkpoint
    NAME/making/         the files of an unfinished `get`
    NAME/.lock           locked by the process that changes something here

Nothing here writes to a terminal. The commands choose the folder (cli/config.py).
"""
