"""Export to ONNX: needs the `onnx` package, and onnxruntime for checking."""

from __future__ import annotations

from deepseek.onnx.exporter import export
from deepseek.onnx.report import Report

__all__ = ["Report", "export"]
