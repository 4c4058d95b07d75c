"""A server that answers many requests at once. An answer's bytes depend neither on other requests nor on cache hits.

Three layers, and imports go one way: wire (HTTP, JSON, text) -> engine (token ids, states) -> `rwkv_np.models`.
The engine knows neither text nor HTTP; the wire knows neither kernels nor states.
"""
