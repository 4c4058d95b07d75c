"""Work on all nodes of a Ray cluster: one actor on each node, which has the model and all of the node's cores.

This uses Ray's actors, not Ray Data. A pool of Ray Data gives all its actors the same request, so it can neither
promise one actor a node (a second one would load the model a second time) nor as many threads as the node has cores.
And when a node dies, actors on all CPUs starve Ray Data's own tasks, and the job waits in silence. Here, nothing but
the actors runs, and what was not done on a lost node is done on another.

No other module imports ray, so the package works without it.
"""
