"""What operators do with their inputs, as far as it decides whether a constant is a weight.

``STRUCTURAL`` lists inputs that a graph needs true to be valid (shapes, indices, counts, quantisation parameters),
``QUANTISED`` inputs that take integers as weights or biases. An input in neither takes data: a float constant there is
a weight. Sources: the operator specifications of ONNX up to opset 25 and ONNX Runtime's contrib operators.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ARITHMETIC",
    "INTEGER_ONLY",
    "KNOWN_DOMAINS",
    "LIST_ATTRIBUTES",
    "ML_WITHOUT_WEIGHTS",
    "PASSING",
    "QUANTISED",
    "REFUSED",
    "STRUCTURAL",
]

MS: Final = "com.microsoft"
KNOWN_DOMAINS: Final = frozenset(["", "ai.onnx.ml", MS])

_REDUCTIONS: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

_SHAPES: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "shape": {
        "Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Tile": (1, 2), "CenterCropPad": (1,),
        "Col2Im": (1, 2), "AffineGrid": (1,), "MaxUnpool": (2,), "Resize": (3,), "Split": (1,),
        "SplitToSequence": (1,), "Pad": (1, 2, 3),
    },
    "scale or region of a resize": {"Resize": (1, 2), "Upsample": (1,)},
    "index or axis": {
        "Slice": (1, 2, 3, 4), "DynamicSlice": (1, 2, 3, 4), "Gather": (1,), "GatherElements": (1,), "GatherND": (1,),
        "ScatterElements": (1,), "Scatter": (1,), "ScatterND": (1,), "TensorScatter": (2,), "Squeeze": (1,),
        "Unsqueeze": (1,), "CumSum": (1,), "Trilu": (1,), "OneHot": (0,), "ReverseSequence": (1,), "SequenceAt": (1,),
        "SequenceInsert": (2,), "SequenceErase": (1,), "Compress": (1,), "RoiAlign": (1, 2), "MaxRoiPool": (1,),
        "MaxUnpool": (1,), "RotaryEmbedding": (3,), "NegativeLogLikelihoodLoss": (1,), "SoftmaxCrossEntropyLoss": (1,),
        "BitShift": (1,), **{f"Reduce{name}": (1,) for name in _REDUCTIONS},
    },
    "count or length": {
        "TopK": (1,), "Range": (0, 1, 2), "OneHot": (1,), "Loop": (0, 1), "LSTM": (4,), "GRU": (4,), "RNN": (4,),
        "STFT": (1, 3), "DFT": (1, 2), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,),
        "MelWeightMatrix": (0, 1, 2, 3, 4), "Attention": (6,),
    },
    "threshold of a box selection": {"NonMaxSuppression": (2, 3, 4)},
    "dropout setting": {"Dropout": (1, 2)},
    "quantisation scale or zero point": {
        "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7),
        "QLinearMatMul": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
    },
}  # fmt: skip

_CONTRIB: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "quantisation scale or zero point": {
        "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "DynamicQuantizeMatMul": (2, 3),
        "MatMulIntegerToFloat": (2, 3, 4, 5), "QAttention": (3, 4, 6, 7), "QGemm": (1, 2, 4, 5, 7, 8),
        "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearAdd": (1, 2, 4, 5, 6, 7), "QLinearMul": (1, 2, 4, 5, 6, 7),
        "QLinearLeakyRelu": (1, 2, 3, 4), "QLinearSigmoid": (1, 2, 3, 4), "QLinearSoftmax": (1, 2, 3, 4),
        "QLinearReduceMean": (1, 2, 3, 4), "QLinearGlobalAveragePool": (1, 2, 3, 4), "QLinearAveragePool": (1, 2, 3, 4),
        "QLinearWhere": (2, 3, 5, 6, 7, 8), "QEmbedLayerNormalization": tuple(range(8, 18)), "MulInteger": (1, 3),
        "MatMulNBits": (2, 3), "MatMulBnb4": (2,), "GatherBlockQuantized": (2, 3),
        "DynamicQuantizeLSTM": (8, 9, 10, 11),
        "QMoE": (3, 6, 9, 11, 12, 13, 15, 16, 17, 18, 19, 20), "GemmFloat8": (3, 4, 5),
        "QOrderedMatMul": (1, 3, 4, 7), "QuantizeWithOrder": (1,), "DequantizeWithOrder": (1,),
        "QOrderedLayerNormalization": (1, 4), "QOrderedGelu": (1, 2),
        "QOrderedAttention": (1, 2, 3, 4, 8, 9, 10, 14, 15, 16),
    },
    "shape": {"MatMulFpQ4": (2,), "Pad": (1, 2), "ConvTransposeWithDynamicPads": (2,), "CropAndResize": (3,)},
    "index or axis": {
        "MatMulNBits": (4,), "GatherBlockQuantized": (1,), "GatherND": (1,), "ExpandDims": (1,), "Trilu": (1,),
        "RotaryEmbedding": (1,), "MRotaryEmbedding": (1,), "CropAndResize": (1, 2),
        "EmbedLayerNormalization": (0, 1, 8),
        "QEmbedLayerNormalization": (0, 1),
    },
    "count or length": {
        "Range": (0, 1, 2), "RelativePositionBias": (1, 2), "GroupQueryAttention": (5, 6), "MultiHeadAttention": (8,),
        "Attention": (6,), "DynamicQuantizeLSTM": (4,), "SparseAttention": (5, 6, 7, 8),
    },
    "setting of a text generation": {
        "BeamSearch": tuple(range(1, 7)), "GreedySearch": (1, 2, 3), "Sampling": (1, 2, 3, 8),
        "WhisperBeamSearch": (1, 2, 3, 4, 5, 6, 11, 12, 13, 14),
    },
    "dropout setting": {"BitmaskDropout": (1, 2), "BiasDropout": (3, 4), "BitmaskBiasDropout": (3, 4)},
}  # fmt: skip

_QUANTISED: Final = {
    ("", "DequantizeLinear"): (0,),
    ("", "QLinearConv"): (3, 8),
    ("", "QLinearMatMul"): (0, 3),
    ("", "ConvInteger"): (1,),
    ("", "MatMulInteger"): (0, 1),
    (MS, "DequantizeLinear"): (0,),
    (MS, "QLinearConv"): (3, 8),
    (MS, "QGemm"): (0, 3, 6),
    (MS, "QAttention"): (1, 2),
    (MS, "MatMulInteger16"): (0, 1),
    (MS, "MatMulIntegerToFloat"): (0, 1),
    (MS, "DynamicQuantizeMatMul"): (1,),
    (MS, "DynamicQuantizeLSTM"): (1, 2),
    (MS, "MatMulNBits"): (1,),
    (MS, "MatMulBnb4"): (1,),
    (MS, "MatMulFpQ4"): (1,),
    (MS, "GatherBlockQuantized"): (0,),
    (MS, "QMoE"): (2, 5, 8),
    (MS, "QOrderedMatMul"): (0, 2, 5),
}


def _table() -> dict[tuple[str, str], dict[int, str]]:
    table: dict[tuple[str, str], dict[int, str]] = {}
    for domain, groups in (("", _SHAPES), (MS, _CONTRIB)):
        for reason, operators in groups.items():
            for operator, inputs in operators.items():
                table.setdefault((domain, operator), {}).update(dict.fromkeys(inputs, reason))
    return table


STRUCTURAL: Final = _table()
"""(domain, operator) -> input number -> reason to stay in clear."""

QUANTISED: Final = {kind: frozenset(inputs) for kind, inputs in _QUANTISED.items()}
"""(domain, operator) -> inputs that take integers as weights or biases."""

INTEGER_ONLY: Final = {("", "Div"): frozenset([1]), ("", "Mod"): frozenset([1])}
"""Inputs that are structural for integers only: division by a masked zero would end the process."""

PASSING: Final[dict[str, tuple[int, ...] | None]] = {
    "Identity": (0,), "Reshape": (0,), "Transpose": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Flatten": (0,),
    "Slice": (0,), "Gather": (0,), "GatherElements": (0,), "GatherND": (0,), "Split": (0,), "Expand": (0,),
    "Tile": (0,), "Cast": (0,), "CastLike": (0,), "Concat": None, "Pad": (0,), "Where": (1, 2),
}  # fmt: skip
"""Operators of the default domain that hand values on: the inputs whose values they hand on (``None``: all)."""

ARITHMETIC: Final = frozenset(
    [
        "Abs", "Add", "And", "Ceil", "Clip", "ConstantOfShape", "CumSum", "Div", "Equal", "Floor", "Greater",
        "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range",
        "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Round", "Sign", "Sqrt", "Sub", "Sum",
        "Where",
    ]
)  # fmt: skip
"""Operators of the default domain that compute shapes from shapes."""

ML_WITHOUT_WEIGHTS: Final = frozenset(
    ["ArrayFeatureExtractor", "Binarizer", "CastMap", "FeatureVectorizer", "Normalizer", "ZipMap"]
)
"""Operators of ai.onnx.ml that keep no weights in their attributes."""

LIST_ATTRIBUTES: Final = frozenset(["activation_alpha", "activation_beta", "scales", "value_floats"])
"""Lists of floats of the default domain that are settings."""

REFUSED: Final = {
    (MS, "EPContext"): "holds a network compiled for one accelerator",
    (MS, "Snpe"): "holds a network compiled for one accelerator",
}
