"""Every rule of merge_states that a legal call can be made to break."""

from __future__ import annotations

import c_abi
import invalid_calls as spoil
from invalid_calls import LegalCall, Rule
from ops.merge_states import calls, strategies

HUGE = 2**62  # elements: times two bytes and an extent of 2 it leaves 64 bits

LISTED, STACKED = {"stacked": False}, {"stacked": True}
PARTS = ("outs[1]", "lses[1]")


def legal_call(backend, draw, **base) -> LegalCall:
    """A legal call whose every extent counts."""
    case = draw(strategies.merges(backend, small=True, route="c", with_lse=True, **base))
    parts = calls.Parts(case, backend)
    buffers = {"out": parts.output("out"), "lse": parts.output("lse")}
    call = parts.c_call(**buffers)
    inputs = {f"{name}[{i}]": part for name in ("outs", "lses") for i, part in enumerate(getattr(parts, name))}
    return LegalCall(call, buffers | inputs)


def _rule(name: str, status: str, names: str, broken, base: dict | None = None, only: str | None = None) -> Rule:
    return Rule(name, status, names, broken, only, base or LISTED)


def _params_rules() -> list[Rule]:
    known = c_abi.flags(lse_base2=1, empty_lse_minus=1)
    unknown = [1 << bit for bit in range(32) if not known >> bit & 1]
    return [
        _rule("null params", "NULL_POINTER", "params", spoil.no_params),
        _rule("struct_size", "STRUCT_SIZE", "struct_size", spoil.struct_size(0, 1, 8, -1, -8)),
        _rule("struct_size uninitialised", "STRUCT_SIZE", "struct_size", spoil.struct_size(0xCDCDCDCD, 2**32 - 1)),
        _rule("unknown tail", "STRUCT_SIZE", "struct_size", spoil.tail),
        _rule("flags", "FLAGS", "flags", spoil.field("flags", *unknown, 2**32 - 1)),
        _rule("num_states", "VALUE", "num_states", spoil.field("num_states", -1, -(2**31))),
        _rule("num_threads", "VALUE", "num_threads", spoil.field("num_threads", -1, -(2**31))),
        _rule("far too many parts", "UNSUPPORTED", "num_states", spoil.more_parts(5000)),
        _rule("too many parts on CUDA", "UNSUPPORTED", "num_states", spoil.more_parts(17), only="gpu"),
    ]


def _tensor_rules() -> list[Rule]:
    rules = [
        *(_rule(f"{name} null", "NULL_POINTER", name, spoil.no_tensor(name)) for name in ("outs", "lses", "out")),
        _rule("part null", "NULL_POINTER", r"outs\[1\]", spoil.no_part("outs", 1)),
        _rule("lse of a part null", "NULL_POINTER", r"lses\[1\]", spoil.no_part("lses", 1)),
        _rule("outs dtype", "DTYPE", r"outs\[0\]\.dtype", spoil.dtype_of("outs[0]", "int32", (2, 64, 1))),
        _rule("parts of two dtypes", "DTYPE", r"outs\[1\]\.dtype", spoil.dtype_of("outs[1]", "int32", (4, 16, 2))),
        _rule("out dtype", "DTYPE", r"out\.dtype", spoil.dtype_of("out", "int32", (2, 64, 1))),
        _rule("device type", "DEVICE", "device", spoil.everywhere("device", (12, 0))),
    ]
    for name in (*PARTS, "out", "lse"):
        pattern = name.replace("[", r"\[").replace("]", r"\]")
        rules += [
            _rule(f"{name} shape null", "NULL_POINTER", rf"{pattern}\.shape", spoil.null_shape(name)),
            _rule(f"{name} rank", "SHAPE", rf"{pattern}\.ndim", spoil.attribute(name, "ndim", 0, -1, 6)),
            _rule(f"{name} mixed device", "MIXED_DEVICES", pattern, spoil.other_device(name)),
            _rule(f"{name} data null", "NULL_POINTER", rf"{pattern}\.data", spoil.attribute(name, "data", 0)),
            _rule(f"{name} address", "ALIGNMENT", pattern, spoil.misplaced(name, 2)),
        ]
        if "lse" in name:
            wrong = spoil.dtype_of(name, "bfloat16", "float16", "int32")
            rules.append(_rule(f"{name} dtype", "DTYPE", rf"{pattern}\.dtype", wrong))
        for axis in range(3 if "lse" in name else 4):
            broken = spoil.extent(name, axis, lambda n: n + 1)
            rules.append(_rule(f"{name} extent {axis}", "SHAPE", rf"shape\[{axis}\]", broken))
    return rules


def _extent_rules() -> list[Rule]:
    rules = [
        _rule("d_v", "UNSUPPORTED", "d_v", spoil.every_extent(-1, 12, "outs[0]", "outs[1]", "out")),
        _rule("no parts", "ZERO_EXTENT", r"outs\.shape\[0\]", spoil.extent("outs[0]", 0, lambda _: 0), STACKED),
        _rule("fewer lses", "SHAPE", r"lses\.shape\[0\]", spoil.extent("lses[0]", 0, lambda n: n - 1), STACKED),
        _rule("stacked rank", "SHAPE", r"outs\.ndim", spoil.attribute("outs[0]", "ndim", 3, 4, 6), STACKED),
        _rule("stacked heads", "SHAPE", r"shape\[\d\]", spoil.extent("outs[0]", 3, lambda n: n + 1), STACKED),
    ]
    for axis in (2, 3):
        for value in (0, -1):
            broken = spoil.extent("outs[1]", axis, lambda _, value=value: value)
            rules.append(_rule(f"extent {axis} is {value}", "ZERO_EXTENT", rf"outs\[1\]\.shape\[{axis}\]", broken))
    return rules


def _stride_rules() -> list[Rule]:
    rules = [
        _rule("out overlaps", "STRIDE", r"out\.strides", spoil.overlap("out", 2)),
        _rule("lse overlaps", "STRIDE", r"lse\.strides", spoil.overlap("lse", 2)),
        _rule("stacked stride", "STRIDE", r"outs\.strides\[0\]", spoil.stride("outs[0]", 0, 0, -8), STACKED),
        _rule(
            "stacked stride unaligned", "ALIGNMENT", r"outs\.strides\[0\]", spoil.stride("outs[0]", 0, 4097), STACKED
        ),
    ]
    for name, inner in (("outs[1]", 3), ("out", 3)):
        pattern = name.replace("[", r"\[").replace("]", r"\]")
        where = rf"{pattern}\.strides\[1\]"
        rules += [
            _rule(f"{name} innermost", "STRIDE", rf"{pattern}\.strides", spoil.stride(name, inner, 0, 2, -1)),
            _rule(f"{name} not positive", "STRIDE", where, spoil.stride(name, 1, 0, -8)),
            _rule(f"{name} overflows", "OVERFLOW", where, spoil.stride(name, 1, HUGE, 2**63 - 8)),
            _rule(f"{name} unaligned", "ALIGNMENT", where, spoil.stride(name, 1, 577, 4097)),
        ]
    for name in ("lses[1]", "lse"):
        pattern = name.replace("[", r"\[").replace("]", r"\]")
        rules.append(_rule(f"{name} not positive", "STRIDE", rf"{pattern}\.strides", spoil.stride(name, 2, 0, -1)))
    return rules


RULES = [*_params_rules(), *_tensor_rules(), *_extent_rules(), *_stride_rules()]
