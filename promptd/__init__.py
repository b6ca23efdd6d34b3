"""promptd runs WebAssembly guests that talk to local language models."""
