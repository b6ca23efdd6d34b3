"""promptd's settings: promptd.toml and command-line options become validated, typed values here and nowhere else."""

from promptd.config.engine import EngineSettings
from promptd.config.file import Settings, load_settings
from promptd.config.graph import MAX_BIASES, GraphSettings, LoraSettings, graph_settings
from promptd.config.guest import DirectoryGrant, GuestLimits, GuestSettings, guest_limits, guest_settings
from promptd.config.preload import nn_preload
from promptd.config.server import KeySettings, ServerSettings, UploadSettings
from promptd.config.table import NAME_PATTERN
from promptd.config.units import MAX_DURATION_S, parse_duration, parse_size

__all__ = [
    "DirectoryGrant",
    "EngineSettings",
    "GraphSettings",
    "GuestLimits",
    "GuestSettings",
    "KeySettings",
    "LoraSettings",
    "MAX_BIASES",
    "MAX_DURATION_S",
    "NAME_PATTERN",
    "ServerSettings",
    "Settings",
    "UploadSettings",
    "graph_settings",
    "guest_limits",
    "guest_settings",
    "load_settings",
    "nn_preload",
    "parse_duration",
    "parse_size",
]
