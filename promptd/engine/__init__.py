"""The engine: continuous batching over one GGUF model in a worker process of its own.

`client.Engine` is the parent's side of it, `worker.main` the other. Neither imports the other's half, which keeps the
start of a worker short.
"""
