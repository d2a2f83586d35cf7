/* dump_operations.c - what the library's tables say, as JSON on stdout: operations with their tensors, axes and flags,
 * element types, the facts that C shares with the kernels, and its arithmetic of batch-invariant pieces. Read by
 * tests/argument_tables.py. */
#include <stdio.h>
#include <string.h>

#include "attention/check.h"
#include "core/operation.h"
#include "cuda/kernel_params.h"
#include "schedule/items.h"

static const char *comma(int32_t i) { return i > 0 ? ", " : ""; }

static void print_dtypes(uint32_t set) {
  int32_t printed = 0;
  printf("[");
  for (int32_t dtype = 0; dtype < FM_DTYPES; ++dtype)
    if ((set & FM_ONLY(dtype)) != 0) printf("%s\"%s\"", comma(printed++), fm_dtype_name(dtype));
  printf("]");
}

static void print_bool(const char *name, bool value) { printf(", \"%s\": %s", name, value ? "true" : "false"); }

static void print_argument(const fm_operation *operation, const fm_argument *row) {
  printf("{\"name\": \"%s\", \"offset\": %d, \"axes\": [", row->name, row->offset);
  for (int32_t axis = 0; axis < row->rank; ++axis)
    printf("%s\"%s\"", comma(axis), operation->axes[row->axes[axis]].name);
  printf("], \"dtypes\": ");
  print_dtypes(row->dtypes);
  printf(", \"like\": \"%s\", \"alignment\": %d", row->like > 0 ? operation->arguments[row->like - 1].name : "",
         row->alignment);
  print_bool("free_innermost", row->free_innermost);
  print_bool("written", row->written);
  print_bool("mapped", row->mapped);
  print_bool("optional", row->optional);
  print_bool("of_queries", row->of_queries);
  print_bool("listed", row->listed);
  print_bool("shape_only", row->shape_only);
  print_bool("coded", row->coded);
  print_bool("paged", row->paged != 0);
  printf(", \"packed_axis\": \"%s\"", row->packed_axis != 0 ? operation->axes[row->packed_axis].name : "");
  printf(", \"parted_axis\": \"%s\"", row->parted_axis != 0 ? operation->axes[row->parted_axis].name : "");
  printf("}");
}

static void print_operation(const fm_operation *operation) {
  printf("{\"name\": \"%s\", \"params_size\": %u, \"first_size\": %u, \"flags\": %u, \"scratch\": \"%s\"",
         operation->name, operation->params.size, operation->params.ends[0], operation->flags | FLASHMLA_PYTHON_NAMES,
         operation->scratch != NULL ? operation->scratch : "");
  print_bool("num_threads", operation->threads_offset != 0);
  printf(", \"stream_offset\": %u", operation->stream_offset);
  printf(", \"scratch_offset\": %u, \"scratch_size_offset\": %u,\n  \"may_be_empty\": [", operation->scratch_offset,
         operation->scratch_size_offset);
  int32_t printed = 0;
  for (int32_t axis = 0; axis < operation->num_axes; ++axis)
    if (operation->axes[axis].may_be_empty) printf("%s\"%s\"", comma(printed++), operation->axes[axis].name);
  printf("],\n  \"arguments\": [");
  for (int32_t row = 0; row < operation->num_arguments; ++row) {
    printf("%s\n   ", comma(row));
    print_argument(operation, &operation->arguments[row]);
  }
  printf("],\n  \"ends\": [");
  for (int32_t i = 0; i < operation->params.num_ends; ++i) printf("%s%u", comma(i), operation->params.ends[i]);
  printf("],\n  \"cpu_kernels\": [");
  for (int32_t row = 0; row < operation->num_cpu_kernels; ++row) {
    const flashmla_kernel_info *kernel = &operation->cpu_kernels[row];
    printf("%s{\"name\": \"%s\", \"operation\": \"%s\", \"dtype\": \"%s\"}", comma(row), kernel->name,
           kernel->operation, kernel->dtype);
  }
  printf("]}");
}

static void print_elements(void) {
  printf("\"dtypes\": [");
  for (int32_t dtype = 0; dtype < FM_DTYPES; ++dtype)
    printf("%s{\"name\": \"%s\", \"number\": %d, \"bytes\": %d}", comma(dtype), fm_dtype_name(dtype), dtype,
           fm_dtype_bytes((fm_dtype)dtype));
  printf("]");
}

static void print_kernel_facts(void) {
  static const int of_kernels[][2] = {FM_KERNEL_GEOMETRIES};
  static const char *const families[] = FM_KERNEL_FAMILY_NAMES;
  printf("\"unit\": %d, \"geometries\": [", FM_KERNEL_UNIT);
  for (int32_t i = 0; fm_geometry_at(i) != NULL; ++i)
    printf("%s[%d, %d]", comma(i), fm_geometry_at(i)->d_qk, fm_geometry_at(i)->d_v);
  printf("], \"kernel_geometries\": [");
  for (size_t i = 0; i < sizeof of_kernels / sizeof of_kernels[0]; ++i)
    printf("%s[%d, %d]", comma((int32_t)i), of_kernels[i][0], of_kernels[i][1]);
  printf("], \"d_qk_of_kernels\": {");
  for (int32_t i = 0, found = 0; fm_geometry_at(i) != NULL; ++i) {
    const fm_geometry *geometry = fm_geometry_at(i), *kernel = fm_kernel_geometry(geometry->d_qk, geometry->d_v);
    if (kernel != NULL) printf("%s\"%d\": %d", comma(found++), geometry->d_qk, kernel->d_qk);
  }
  printf("}");
  printf(", \"families\": [");
  for (int32_t i = 0; i < FM_KERNEL_FAMILIES; ++i) printf("%s\"%s\"", comma(i), families[i]);
  printf("]");
}

/* Of so many quanta: [quanta, begin of that piece, piece there, pieces, by level [first piece of the item 1, items],
 * cost before that piece, pieces for so many units], of quanta of 5 units, with 2 for the end of a piece. */
static void print_pieces_of(int64_t quanta) {
  printf("[%lld, %lld, %lld, %lld, [", (long long)quanta, (long long)fm_piece_begin(quanta),
         (long long)fm_piece_at(quanta), (long long)fm_pieces_of(quanta));
  for (int32_t level = 0; level < FM_LEVELS; ++level) {
    printf("%s[%lld, %lld]", comma(level), (long long)fm_first_piece(1, level),
           (long long)fm_items_between(0, quanta, level));
  }
  const fm_tiling tiling = {.piece_units = 5, .piece_overhead = 2};
  printf("], %lld, %lld]", (long long)fm_cost_before_piece(&tiling, quanta), (long long)fm_pieces_for(&tiling, quanta));
}

static void print_pieces(void) {
  static const int64_t long_ones[] = {
      99, 100, 101, 1 << 10, (1 << 16) + 1, INT32_MAX / 64 / 16, INT32_MAX / 64 / 16 + 1};
  printf("\"pieces\": [");
  for (int32_t quanta = 0; quanta < 60; ++quanta) {
    printf("%s", comma(quanta));
    print_pieces_of(quanta);
  }
  for (size_t i = 0; i < sizeof long_ones / sizeof long_ones[0]; ++i) {
    printf(", ");
    print_pieces_of(long_ones[i]);
  }
  printf("]");
}

int main(void) {
  printf("{");
  print_elements();
  printf(",\n ");
  print_kernel_facts();
  printf(",\n ");
  print_pieces();
  printf(",\n \"operations\": [");
  for (int32_t i = 0; fm_operation_at(i) != NULL; ++i) {
    printf("%s\n ", comma(i));
    print_operation(fm_operation_at(i));
  }
  printf("]}\n");
  return 0;
}
