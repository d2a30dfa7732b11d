"""Packages of the extra `export`, which are imported only when an export needs them."""

import importlib.util

from tunetrail.errors import UserError

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "gguf": ("gguf",),
}


def check_packages(kind: str) -> None:
    """Raise `UserError` unless the packages are installed that write and read a kind of model."""
    missing = [name for name in _PACKAGES.get(kind, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to {kind} needs packages that aren't installed: {', '.join(missing)}. "
            "Run `pip install 'tunetrail[export]'`."
        )
