"""Options under which SmolLM2's replies never end by themselves."""

from __future__ import annotations

ENDLESS = ("temperature=0", 'logit-bias={"0": -100, "2": -100, "4": -100}')
"""Greedy, and without the tokens that end a reply: a hot sampler draws one of them sooner or later."""
