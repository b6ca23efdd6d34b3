"""What llama.cpp was built with: `python -m promptd.engine.build` prints it as JSON, in a process of its own, since the
parent never loads llama.cpp. Checked against llama-cpp-python 0.3.36 and ggml 0.25.3.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from promptd.errors import RuntimeFailure

READ_LIMIT_S = 30.0
"""What loading llama.cpp may take; a GPU's driver can take seconds."""


def read_build() -> dict[str, Any]:
    """Return `version` (of llama-cpp-python), `ggml` and `commit`, `features` by backend, and `gpu`.

    Raises RuntimeFailure when llama.cpp cannot be loaded.
    """
    command = [sys.executable, "-m", "promptd.engine.build"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=READ_LIMIT_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(f"llama.cpp did not load within {READ_LIMIT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        cause = (error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"])[-1]
        raise RuntimeFailure(f"llama.cpp cannot be loaded: {cause}; install promptd again") from error
    return dict(json.loads(done.stdout))


def features_of(text: str) -> dict[str, list[str]]:
    """Return the features in llama.cpp's line of system information, by backend: `CPU : AVX2 = 1 | FMA = 1 | `."""
    found: dict[str, list[str]] = {}
    for backend, features in re.findall(r"(\w+) : ((?:\w+ = [^|]*\| )*)", text):
        found[backend] = re.findall(r"(\w+) = (?!0 )", features)
    return found


def _read() -> dict[str, Any]:
    import llama_cpp

    base: Any = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))))
    for function in (base.ggml_version, base.ggml_commit):
        function.restype = ctypes.c_char_p
    return {
        "version": llama_cpp.__version__,
        "ggml": base.ggml_version().decode(),
        "commit": base.ggml_commit().decode(),
        "features": features_of(llama_cpp.llama_print_system_info().decode()),
        "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_read()))
