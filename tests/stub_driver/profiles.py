"""Profiles of calls on the stub driver: what they read."""

from __future__ import annotations

import c_abi

KNOWN, CAPTURED, LOST, FAILED, SKIPPED = (
    c_abi.constant(f"TIME_{name}") for name in ("KNOWN", "CAPTURED", "LOST", "FAILED", "SKIPPED")
)
COUNTED, OWN_PLAN, LOADED, PREPARED = (
    c_abi.constant(f"CALL_{name}") for name in ("COUNTED", "OWN_PLAN", "LOADED", "PREPARED")
)
HELPERS = """
def start(flags=0, **numbers):
    options = ffi.new("flashmla_profile_options *", {"struct_size": ffi.sizeof("flashmla_profile_options"), **numbers})
    options.flags = flags
    assert lib.flashmla_profile_start(options) == 0, last_error()

def read():
    records = ffi.new("flashmla_call_record[100]")
    records[0].struct_size = ffi.sizeof("flashmla_call_record")
    state = ffi.new("flashmla_profile_state *", {"struct_size": ffi.sizeof("flashmla_profile_state")})
    assert lib.flashmla_profile_read(records, 100, state) == 0, last_error()
    for record in records[0 : state.count]:
        found = {name: getattr(record, name) for name, _ in ffi.typeof("flashmla_call_record").fields}
        texts = {name: ffi.string(found[name]).decode() for name in ("operation", "kernel", "dtype")}
        tell("record", {name: int(ffi.cast("intptr_t", value)) for name, value in found.items()} | texts)
    tell("state", state.count, state.calls, state.dropped, state.left)
"""


def profiled(driver, code: str, **settings):
    """Records, states and the process."""
    ran = driver.run(HELPERS + code, **settings)
    records = [line[1] for line in ran.told if line[0] == "record"]
    return records, [line[1:] for line in ran.told if line[0] == "state"], ran
