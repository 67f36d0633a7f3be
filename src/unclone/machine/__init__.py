"""Machines made of parts: any k of n enrolled devices give one key, to which models are bound.

::

    from unclone.machine import enroll_machine, reconstruct_machine, save_machine

    press = enroll_machine({"controller": a, "camera": b, "drive": c}, need=2, name="press-17")
    unclone.bind("model.onnx", press, "model.bound.onnx")
    key = reconstruct_machine(press, {"controller": "serial:/dev/ttyACM0", "drive": "serial:/dev/ttyACM1"})
"""

from unclone.machine.assembly import enroll_machine, reconstruct_machine, replace_part
from unclone.machine.file import load_machine, parse_machine, render_machine, save_machine
from unclone.machine.record import Machine, Part

__all__ = [
    "Machine",
    "Part",
    "enroll_machine",
    "load_machine",
    "parse_machine",
    "reconstruct_machine",
    "render_machine",
    "replace_part",
    "save_machine",
]
