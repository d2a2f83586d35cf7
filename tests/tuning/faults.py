"""Faults to plant in copies of the sources, and the test that finds each."""

from __future__ import annotations

from dataclasses import dataclass

from planted_faults import Edit

SOURCE = "libflashmla/src/"
DISPATCH, FILES = "test_dispatch.py::test_", "test_files.py::test_"


@dataclass(frozen=True)
class TuningFault:
    name: str
    file: str
    before: str
    after: str
    test: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (Edit(SOURCE + self.file, self.before, self.after),)


FAULTS = [
    TuningFault("batches beyond the range", "tuning/find.c",
                "shape->batch <= entry->value[FM_TUNING_BATCH_TO] &&", "",
                DISPATCH + "a_range_covers_what_is_in_it"),
    TuningFault("a key that is not compared", "tuning/find.c", "for (int32_t i = 0; i < count; ++i)",
                "for (int32_t i = 0; i < count; ++i) if (i != FM_TUNING_WINDOW)",
                DISPATCH + "an_entry_is_for_its_shape_alone"),
    TuningFault("formats that disagree", "tuning/find.c",
                "found.num_splits != entry->value[FM_TUNING_NUM_SPLITS]", "found.num_splits < 0",
                DISPATCH + "a_plan_of_sparse_decode_follows_what_all_formats_agree_on"),
    TuningFault("batch-invariant calls ask", "attention/tuned.c", "call->cuda && !work->batch_invariant && ",
                "call->cuda && ", DISPATCH + "what_must_not_change_its_bits_asks_no_file"),
    TuningFault("splits of the caller are replaced", "attention/tuned.c",
                "if (attention->own_plan && work->num_splits > 0) return;", "",
                DISPATCH + "splits_of_the_caller_count_and_nothing_of_the_entry"),
    TuningFault("a size is that of the file alone", "attention/tuned.c",
                "if (call->scratch_bytes < plain_bytes) call->scratch_bytes",
                "if (plain_bytes == 1) call->scratch_bytes",
                DISPATCH + "a_size_is_enough_with_any_file"),
    TuningFault("a small workspace fails", "attention/tuned.c", "if (call->sizes_only || fm_has_room(call))", "if (1)",
                DISPATCH + "a_size_is_enough_with_any_file"),
    TuningFault("tiles are the file's, not the plan's", "ops/dense_decode/cuda.c",
                "if (named == NULL && attention->own_plan) named", "if (named == NULL) named",
                DISPATCH + "a_plan_is_right_whatever_is_loaded_later"),
    TuningFault("the driver is not compared", "tuning/cuda_machine.c", "here.driver == table->machine.driver", "1",
                DISPATCH + "a_file_is_for_its_gpu_and_driver"),
    TuningFault("a checksum that is not compared", "tuning/file.c",
                "memcmp(line, text + bytes - END_BYTES, END_BYTES) != 0", "line[0] != 'e'",
                FILES + "text_that_is_not_signed_is_refused"),
    TuningFault("numbers wrap", "tuning/fields.c", "number <= fields[field].most",
                "(int32_t)number <= fields[field].most",
                FILES + "any_signed_text_is_read_or_refused_as_described"),
    TuningFault("kernels of another build", "tuning/file.c",
                "if (strcmp(kernels, fm_cuda_kernels_digest()) == 0) return",
                "if (kernels[0] != '-') return", FILES + "any_signed_text_is_read_or_refused_as_described"),
]  # fmt: skip
