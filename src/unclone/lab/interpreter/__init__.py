"""An interpreter of ONNX in torch, so that gradients flow through a model of somebody else.

An operator is a function ``(node, inputs) -> outputs``. Semantics are those of the ONNX operator reference, opset 13
and later, and of earlier opsets where an attribute became an input; each is tested against ONNX Runtime.
"""

from unclone.lab.interpreter.network import OnnxNetwork

__all__ = ["OnnxNetwork"]
