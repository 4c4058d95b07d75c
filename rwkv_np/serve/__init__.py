"""A server that answers many at once: every answer has the same bytes, in any company and after any cache hit.

Three layers, and imports go one way: wire (HTTP, JSON, text) -> engine (token ids, states) -> `rwkv_np.models`.
The engine knows neither text nor HTTP; the wire knows neither kernels nor states.
"""
