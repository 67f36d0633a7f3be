"""What operators of TensorFlow Lite do with their inputs, as far as it decides whether a constant is a weight.

``STRUCTURAL`` lists inputs that a graph needs true to be valid (shapes, axes, indices, counts), ``QUANTISED`` inputs
that take wide integers as weights or biases. A float or 8-bit constant at any other input is a weight. Source:
schema.fbs and the kernels' documentation of LiteRT 2.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DIVISORS", "MOVING", "OPERATORS", "PURE", "QUANTISED", "REFUSED", "STRUCTURAL"]

OPERATORS: Final = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU",
    "RELU_N1_TO_1", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH",
    "CONCAT_EMBEDDINGS", "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB",
    "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP",
    "TOPK_V2", "SPLIT", "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM",
    "ARG_MAX", "MINIMUM", "LESS", "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE",
    "SIN", "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT",
    "RSQRT", "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT",
    "LOGICAL_AND", "LOGICAL_NOT", "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL",
    "FLOOR_MOD", "RANGE", "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS",
    "SPLIT_V", "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU",
    "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE",
    "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM",
    "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM", "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D",
    "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE",
    "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "BROADCAST_ARGS",
    "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE",
    "RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "ATAN2",
    "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "STABLEHLO_LOGISTIC", "STABLEHLO_ADD",
    "STABLEHLO_DIVIDE", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_RESHAPE", "STABLEHLO_CLAMP",
    "STABLEHLO_CONCATENATE", "STABLEHLO_BROADCAST_IN_DIM", "STABLEHLO_CONVOLUTION", "STABLEHLO_SLICE",
    "STABLEHLO_CUSTOM_CALL", "STABLEHLO_REDUCE", "STABLEHLO_ABS", "STABLEHLO_AND", "STABLEHLO_COSINE",
    "STABLEHLO_EXPONENTIAL", "STABLEHLO_FLOOR", "STABLEHLO_LOG", "STABLEHLO_MINIMUM", "STABLEHLO_NEGATE",
    "STABLEHLO_OR", "STABLEHLO_POWER", "STABLEHLO_REMAINDER", "STABLEHLO_RSQRT", "STABLEHLO_SELECT",
    "STABLEHLO_SUBTRACT", "STABLEHLO_TANH", "STABLEHLO_SCATTER", "STABLEHLO_COMPARE", "STABLEHLO_CONVERT",
    "STABLEHLO_DYNAMIC_SLICE", "STABLEHLO_DYNAMIC_UPDATE_SLICE", "STABLEHLO_PAD", "STABLEHLO_IOTA",
    "STABLEHLO_DOT_GENERAL", "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_GATHER",
    "STABLEHLO_TRANSPOSE", "DILATE", "STABLEHLO_RNG_BIT_GENERATOR", "REDUCE_WINDOW", "STABLEHLO_COMPOSITE",
    "STABLEHLO_SHIFT_LEFT", "STABLEHLO_CBRT", "STABLEHLO_CASE",
)  # fmt: skip
"""Names of the built-in operators, in the order of their numbers."""

_MANY: Final = tuple(range(1, 16))
_REDUCTIONS: Final = ("MEAN", "SUM", *(f"REDUCE_{kind}" for kind in ("ALL", "ANY", "MAX", "MIN", "PROD")))

_GROUPS: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "shape": {
        "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_ARGS": (0, 1), "BROADCAST_TO": (1,), "CONV_3D_TRANSPOSE": (0,),
        "DILATE": (1,), "FILL": (0,), "RANDOM_STANDARD_NORMAL": (0,), "RANDOM_UNIFORM": (0,),
        "REDUCE_WINDOW": (2, 3, 4, 5), "RESHAPE": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,),
        "RFFT2D": (1,), "SCATTER_ND": (2,), "SPACE_TO_BATCH_ND": (1, 2), "SPARSE_TO_DENSE": (1,), "SPLIT_V": (1,),
        "TILE": (1,), "TRANSPOSE_CONV": (0,),
    },
    "padding": {"MIRROR_PAD": (1,), "PAD": (1,), "PADV2": (1, 2), "STABLEHLO_PAD": (1,)},
    "index or axis": {
        "ARG_MAX": (1,), "ARG_MIN": (1,), "CUMSUM": (1,), "DYNAMIC_UPDATE_SLICE": (2,), "EMBEDDING_LOOKUP": (0,),
        "EMBEDDING_LOOKUP_SPARSE": (0, 1, 2), "EXPAND_DIMS": (1,), "GATHER": (1,), "GATHER_ND": (1,),
        "HASHTABLE_FIND": (1,), "HASHTABLE_IMPORT": (1,), "HASHTABLE_LOOKUP": (0, 1), "ONE_HOT": (0,),
        "REVERSE_SEQUENCE": (1,), "REVERSE_V2": (1,), "RIGHT_SHIFT": (1,), "SCATTER_ND": (0,), "SEGMENT_SUM": (1,),
        "SLICE": (1, 2), "SPARSE_TO_DENSE": (0,), "SPLIT": (0,), "SPLIT_V": (2,), "STABLEHLO_CASE": (0,),
        "STABLEHLO_DYNAMIC_SLICE": _MANY, "STABLEHLO_DYNAMIC_UPDATE_SLICE": _MANY[1:], "STABLEHLO_GATHER": (1,),
        "STABLEHLO_SCATTER": (1,), "STABLEHLO_SHIFT_LEFT": (1,), "STRIDED_SLICE": (1, 2, 3), "TRANSPOSE": (1,),
        "UNSORTED_SEGMENT_MAX": (1,), "UNSORTED_SEGMENT_MIN": (1,), "UNSORTED_SEGMENT_PROD": (1,),
        "UNSORTED_SEGMENT_SUM": (1,), **dict.fromkeys(_REDUCTIONS, (1,)),
    },
    "count or length": {
        "MULTINOMIAL": (1,), "NON_MAX_SUPPRESSION_V4": (2,), "NON_MAX_SUPPRESSION_V5": (2,), "ONE_HOT": (1,),
        "RANGE": (0, 1, 2), "TOPK_V2": (1,), "UNSORTED_SEGMENT_MAX": (2,), "UNSORTED_SEGMENT_MIN": (2,),
        "UNSORTED_SEGMENT_PROD": (2,), "UNSORTED_SEGMENT_SUM": (2,),
    },
    "threshold of a box selection": {"NON_MAX_SUPPRESSION_V4": (3, 4), "NON_MAX_SUPPRESSION_V5": (3, 4, 5)},
}  # fmt: skip


def _table() -> dict[str, dict[int, str]]:
    table: dict[str, dict[int, str]] = {}
    for reason, operators in _GROUPS.items():
        for operator, inputs in operators.items():
            table.setdefault(operator, {}).update(dict.fromkeys(inputs, reason))
    return table


STRUCTURAL: Final = _table()
"""operator -> input number -> reason to stay in clear."""

_ANY: Final = frozenset(range(64))
QUANTISED: Final = {
    "ADD": _ANY, "ASSIGN_VARIABLE": frozenset([1]), "BATCH_MATMUL": _ANY, "BIDIRECTIONAL_SEQUENCE_LSTM": _ANY,
    "BIDIRECTIONAL_SEQUENCE_RNN": _ANY, "CONV_2D": frozenset([1, 2]), "CONV_3D": frozenset([1, 2]),
    "CONV_3D_TRANSPOSE": frozenset([1, 3]), "DEPTHWISE_CONV_2D": frozenset([1, 2]), "DEQUANTIZE": frozenset([0]),
    "EMBEDDING_LOOKUP": frozenset([1]), "FULLY_CONNECTED": frozenset([1, 2]), "LSTM": _ANY, "MUL": _ANY,
    "PRELU": frozenset([1]), "RNN": _ANY, "STABLEHLO_CONVOLUTION": frozenset([1]), "STABLEHLO_DOT_GENERAL": _ANY,
    "SVDF": _ANY, "TRANSPOSE_CONV": frozenset([1, 3]), "UNIDIRECTIONAL_SEQUENCE_LSTM": _ANY,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _ANY,
}  # fmt: skip
"""operator -> inputs at which a wide integer is a weight or a bias. ``ADD`` and ``MUL``: of int16, and of quantised
tensors alone (``tflite_use``): integers proper are arithmetic of shapes and counters as often as not."""

DIVISORS: Final = frozenset(["DIV", "FLOOR_DIV", "FLOOR_MOD", "STABLEHLO_DIVIDE", "STABLEHLO_REMAINDER"])
"""Operators whose second input must not become zero where it is an integer."""

PURE: Final = frozenset(["RANK", "SHAPE"])
"""Operators whose output holds shapes alone."""

MOVING: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        ("ABS", "CAST", "CEIL", "EXPAND_DIMS", "FLOOR", "GATHER", "GATHER_ND", "NEG", "REDUCE_MAX", "REDUCE_MIN",
         "REDUCE_PROD", "RESHAPE", "REVERSE_V2", "ROUND", "SIGN", "SLICE", "SPLIT_V", "SQRT", "SQUARE", "SQUEEZE",
         "STABLEHLO_CONVERT", "STABLEHLO_RESHAPE", "STRIDED_SLICE", "SUM", "TILE", "TRANSPOSE", "UNPACK",
         "BROADCAST_TO", "CUMSUM", "LOGICAL_NOT", "WHERE"), (0,)),
    **dict.fromkeys(
        ("ADD", "DIV", "EQUAL", "FLOOR_DIV", "FLOOR_MOD", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL",
         "LOGICAL_AND", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL", "NOT_EQUAL", "POW", "STABLEHLO_ADD",
         "STABLEHLO_DIVIDE", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM", "STABLEHLO_MULTIPLY", "STABLEHLO_SUBTRACT",
         "SUB"), (0, 1)),
    **dict.fromkeys(("SELECT", "SELECT_V2", "RANGE"), (0, 1, 2)),
    **dict.fromkeys(("ADD_N", "CONCATENATION", "PACK", "STABLEHLO_CONCATENATE"), tuple(range(16))),
    "FILL": (1,), "SPLIT": (1,), "DYNAMIC_UPDATE_SLICE": (0, 1),
}  # fmt: skip
"""Operators that compute shapes from shapes, and the inputs whose values go into them."""

REFUSED: Final = {
    "BUCKETIZE": "keeps numbers among its options",
    "CONCAT_EMBEDDINGS": "keeps numbers among its options",
    "DELEGATE": "holds a network compiled for one accelerator",
    "STABLEHLO_CUSTOM_CALL": "may keep anything among its options",
    "PLACEHOLDER_FOR_GREATER_OP_CODES": "is no operator",
    "custom:edgetpu-custom-op": "holds a network compiled for one accelerator",
    "custom:DISPATCH_OP": "holds a network compiled for one accelerator",
}
"""Operators that may hold weights where none can be masked."""
