"""Kept models: found by name, fetched, listed and removed.

needs   the file and the memory that a model of a shape takes in each type
kept    the folder: which models are in it, and which file a name means
origin  what a model is made from: a row of the table of published ones, an address, a file
room    whether it fits the disk and the memory
making  from a checkpoint to a kept model

A folder holds one folder for each name:

    NAME/STEM-TYPE.bin   a model; STEM is its checkpoint's name, which tells the chat World from G1
    NAME/STEM.pth        its checkpoint, where somebody wanted to keep it
    NAME/making/         what an unfinished `get` has so far
    NAME/.lock           held by the process that changes something here

Nothing here talks to a terminal. Which folder it is, the commands decide (cli/config.py).
"""
