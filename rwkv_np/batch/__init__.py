"""Many prompts from a file, answered on one machine or on a Ray cluster. No HTTP: the server's plans and its engine.

    line (bytes) -> row (a request with an id) -> plan -> engine -> answer row -> sink (a file that survives kill -9)

An answer depends on its row, the model and the job's settings only: not on other rows, their order, the machine, or
how often the job was interrupted. So a job has one correct output, byte for byte.
"""
