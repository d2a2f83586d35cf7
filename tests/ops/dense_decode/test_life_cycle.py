"""Plans, workspaces and caches live and change independently of each other; a model says what every call must do."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import c_abi
import properties
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import Case, make_data
from properties import share

STEPS = 12


class Problem:
    """The tensors of one decode step, whose lengths change as tokens come and go."""

    def __init__(self, case: Case, backend):
        self.case = case.but(lengths=(case.capacity,) * case.batch)  # every slot holds data, whatever the length
        self.backend = backend
        self.data = make_data(self.case)
        self.tensors = calls.Tensors(self.case, backend, self.data)

    def set_lengths(self, lengths) -> None:
        self.data.cache_seqlens = np.array(lengths, np.int32)
        self.tensors.guarded["cache_seqlens"] = self.tensors.place("cache_seqlens", self.data.cache_seqlens)

    def facts(self) -> tuple:
        """What a plan is made for."""
        case = self.case
        queries = case.cu_seqlens_q is not None, case.batch, case.total_q, case.most_queries, case.h_q
        return case.dtype, case.causal, case.batch_invariant, *queries, *case.shapes()["kv_cache"], case.max_blocks


class LifeCycle(RuleBasedStateMachine):
    """Every call either gives the oracle's rows or is refused for the reason that the model knows."""

    problems, plans, workspaces = Bundle("problems"), Bundle("plans"), Bundle("workspaces")

    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    @initialize(target=plans)
    def plan_never_made(self):
        return None, calls.Plan(c_abi.new_plan(), None)

    @rule(target=problems, data=st.data())
    def new_problem(self, data):
        fixed = {"small": True, "num_splits": 0, "route": "c", "with_lse": True, "varlen": data.draw(st.booleans())}
        return Problem(data.draw(strategies.cases(self.backend, **fixed)), self.backend)

    @rule(target=problems, problem=problems)
    def same_shapes_other_numbers(self, problem):
        """Another layer of the step: it may use the plan of the first."""
        return Problem(problem.case.but(seed=problem.case.seed + 1), self.backend)

    @rule(problem=problems, data=st.data())
    def lengths_change(self, problem, data):
        case = problem.case
        one = strategies.lengths(case.page_size, case.capacity, case.s_q)
        problem.set_lengths(data.draw(st.tuples(*[one] * case.batch)))

    @rule(target=plans, problem=problems, num_splits=st.sampled_from((0, 0, 1, 2, 5)))
    def make_plan(self, problem, num_splits):
        num_splits = 0 if problem.case.batch_invariant else num_splits  # one or the other
        return problem.facts(), calls.make_plan(problem.tensors, num_splits=num_splits)

    @rule(target=plans, plan=plans)
    def copy_plan(self, plan):
        """A plan names its buffer, so it may be copied by value."""
        facts, original = plan
        copy = c_abi.new_plan()
        copy.opaque = original.handle.opaque
        return facts, calls.Plan(copy, original.buffer)

    @rule(target=workspaces, problem=problems, plan=plans, part=st.sampled_from((1.0, 1.0, 0.5)))
    def new_workspace(self, problem, plan, part):
        size = self.size(problem, plan) or 16
        return problem.tensors.scratch(int(size * part) // 16 * 16)

    @rule(problem=problems, plan=st.one_of(st.none(), plans), workspace=workspaces)
    def decode(self, problem, plan, workspace):
        """The workspace is whatever an earlier call left: its contents and its size belong to no call."""
        needed = self.size(problem, plan)
        out, lse = problem.tensors.place("out"), problem.tensors.place("lse")
        call = problem.tensors.c_call("dense_decode", out=out, lse=lse)
        call.fields["workspace"] = problem.tensors.adapter.address(workspace.tensor)
        call.fields["workspace_size"] = workspace.nbytes
        if plan is not None:
            call.fields["plan"] = plan[1].handle
        status = call.run()
        if needed is None or workspace.nbytes < needed:
            short = "WORKSPACE_TOO_SMALL" if call.fields["workspace"] else "NULL_POINTER"  # of none there is no address
            reason = "PLAN_MISMATCH" if needed is None else short
            assert status == c_abi.constant(f"ERROR_{reason}"), c_abi.last_error()
            out.check_unchanged("out")
            lse.check_unchanged("lse")
            return
        assert status == 0, c_abi.last_error()
        properties.drawn[self.backend.name, "valid"] += 1
        calls.check_result(problem.case, problem.data, calls.Result(out.values(), lse.values()))
        for name, guarded in (("out", out), ("lse", lse), ("workspace", workspace)):
            guarded.check_only_elements_written(name)
        if plan is not None and plan[1].buffer is not None:
            plan[1].buffer.check_unchanged("plan buffer")

    def size(self, problem, plan) -> int | None:
        """Bytes that the call needs; None where the plan does not fit it."""
        call = problem.tensors.c_call(
            "dense_decode", out=problem.tensors.place("out"), lse=problem.tensors.place("lse")
        )
        if plan is not None:
            call.fields["plan"] = plan[1].handle
        status, size = call.size()
        if plan is not None and plan[0] != problem.facts():
            assert status == c_abi.constant("ERROR_PLAN_MISMATCH"), c_abi.last_error()
            return None
        assert status == 0, c_abi.last_error()
        return size


def test_life_cycle(backend):
    few = settings(share(1 / 25), stateful_step_count=STEPS)
    run_state_machine_as_test(lambda: LifeCycle(backend), settings=few)
