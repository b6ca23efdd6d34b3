"""The conformance suite's runner: what a host of wasi-nn makes of the guests of `guests/conformance`."""
