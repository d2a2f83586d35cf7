/* check.c - the rules on the arguments of a pool, and what it is to know of them. */
#include <stdlib.h>
#include <string.h>

#include "core/arith.h"
#include "formats/pages.h"
#include "pool/pool.h"

typedef flashmla_pool_params params_type;
enum { KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, SLOT_MAPPING, ROWS };
enum { MAX_SEQS = FM_ROWS_AXES, MAX_BLOCKS, MAX_SLOTS, AXES };
enum { HOST_POOL, STAGING, HOST_ROWS };
enum { HOST_BLOCKS, BLOCK_BYTES, STAGING_BYTES, HOST_AXES };
enum {
  MOST_LAYERS = 4096,
  MOST_SEQUENCES = (1 << 24) - 1 /* that names have bits for */,
  CUDA_HOST = 3 /* kDLCUDAHost */
};

static const uint16_t ends[] = {FM_END(params_type, stream)};
static const fm_struct known = FM_STRUCT("params", params_type, ends);

static const fm_axis axes[AXES] = {[FM_NUM_STATES] = {"num_layers", false},
                                   FM_PAGES_AXES,
                                   [MAX_SEQS] = {"max_seqs", false},
                                   [MAX_BLOCKS] = {"max_blocks", false},
                                   [MAX_SLOTS] = {"max_slots", false}};
static const fm_argument arguments[ROWS] = {
    [KV_CACHE] = {FM_PAGES_FIELDS(params_type, kv_cache), .listed = true, .written = true},
    [BLOCK_TABLE] = {FM_FIELD(params_type, block_table), .rank = 2, .axes = {MAX_SEQS, MAX_BLOCKS},
                     .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t), .written = true},
    [CACHE_SEQLENS] = {FM_FIELD(params_type, cache_seqlens), .rank = 1, .axes = {MAX_SEQS}, .dtypes = FM_ONLY(FM_INT32),
                       .alignment = sizeof(int32_t), .written = true},
    [SLOT_MAPPING] = {FM_FIELD(params_type, slot_mapping), .rank = 1, .axes = {MAX_SLOTS}, .dtypes = FM_ONLY(FM_INT64),
                      .alignment = sizeof(int64_t), .written = true},
};

static const fm_axis host_axes[HOST_AXES] = {[HOST_BLOCKS] = {"num_host_blocks", false},
                                             [BLOCK_BYTES] = {"block_bytes", false},
                                             [STAGING_BYTES] = {"bytes", false}};
static const fm_argument host_arguments[HOST_ROWS] = {
    [HOST_POOL] = {FM_FIELD(params_type, host_pool), .rank = 2, .axes = {HOST_BLOCKS, BLOCK_BYTES},
                   .dtypes = FM_ONLY(FM_UINT8), .alignment = FM_VECTOR_BYTES, .written = true, .optional = true},
    [STAGING] = {FM_FIELD(params_type, staging), .rank = 1, .axes = {STAGING_BYTES}, .dtypes = FM_ONLY(FM_UINT8),
                 .alignment = FM_VECTOR_BYTES, .written = true, .optional = true},
};

/* Tensors of a call as far as checks of a table need it. */
typedef struct checked {
  fm_call call;
  int32_t layers;
} checked;

static flashmla_status read_scalars(const params_type *params, fm_form *form) {
  if ((params->flags & ~(uint32_t)FLASHMLA_PYTHON_NAMES) != 0)
    return fm_fail(FLASHMLA_ERROR_FLAGS, "params.flags is 0x%x; no flags are known", params->flags);
  if (params->num_layers < 0 || params->num_layers > MOST_LAYERS)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.num_layers is|the tensors of kv_cache are} %d; there may be %d at most", params->num_layers,
                   MOST_LAYERS);
  if (params->reserved != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u; it must be 0", params->reserved);
  form->listed = params->num_layers;
  return fm_add_format("kv_format", params->kv_format, FM_MAIN_PAGES, form);
}

static void begin(const params_type *params, int32_t count, checked *made) {
  fm_call *call = &made->call;
  fm_arguments_in(call->form, arguments, count, call->rows);
  call->rows[KV_CACHE].packed = true; /* blocks are copied as bytes, whatever the format */
  call->tensors = (fm_tensors){call->rows, count, axes, call->form.listed, {NULL}};
  fm_read_tensors(params, &call->tensors);
}

static flashmla_status check_tensors(const params_type *params, int32_t count, checked *made) {
  fm_call *call = &made->call;
  call->form = (fm_form){0};
  FM_TRY(read_scalars(params, &call->form));
  begin(params, count, made);
  FM_TRY(fm_check_presence(&call->tensors));
  FM_TRY(fm_check_dtypes(&call->tensors));
  FM_TRY(fm_check_devices(&call->tensors));
  FM_TRY(fm_check_extents(&call->tensors, call->extents));
  made->layers = params->num_layers > 0 ? params->num_layers : call->extents[FM_NUM_STATES];
  if (made->layers > MOST_LAYERS)
    return fm_fail(FLASHMLA_ERROR_VALUE, "kv_cache.shape[0] (num_layers) is %d; there may be %d at most", made->layers,
                   MOST_LAYERS);
  return FLASHMLA_OK;
}

/* One layer of the stacked tensor. */
static flashmla_status layer_of(const DLTensor *stacked, int32_t layer, DLTensor *found) {
  int64_t step = 1;
  uint64_t bytes;
  *found = *stacked;
  ++found->shape;
  --found->ndim;
  if (stacked->strides != NULL) {
    step = stacked->strides[0];
    ++found->strides;
  } else {
    for (int32_t axis = 1; axis < stacked->ndim; ++axis)
      if (__builtin_mul_overflow(step, stacked->shape[axis], &step))
        return fm_fail(FLASHMLA_ERROR_OVERFLOW, "kv_cache has more than 2^63 elements; its size must fit 64 bits");
  }
  if (stacked->shape[0] > 1 && step <= 0)
    return fm_fail(FLASHMLA_ERROR_STRIDE, "kv_cache.strides[0] is %lld; it must be > 0", (long long)step);
  const uint64_t element_bytes = stacked->dtype.bits / 8u;
  if (layer > 0 && (__builtin_mul_overflow((uint64_t)step, element_bytes * (uint64_t)layer, &bytes) ||
                    __builtin_add_overflow(found->byte_offset, bytes, &found->byte_offset)))
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "kv_cache.strides[0] is %lld over %d layers; byte offsets must fit 64 bits",
                   (long long)step, layer + 1);
  return FLASHMLA_OK;
}

/* The layers as a list, which the caller frees with `*made`. */
static flashmla_status list_layers(const params_type *params, int32_t layers, DLTensor **made, const DLTensor ***list) {
  *made = malloc((size_t)layers * sizeof **made);
  *list = malloc((size_t)layers * sizeof **list);
  if (*made == NULL || *list == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d layers could not be allocated", layers);
  for (int32_t i = 0; i < layers; ++i) {
    if (params->num_layers > 0)
      (*made)[i] = *params->kv_cache[i];
    else
      FM_TRY(layer_of(params->kv_cache[0], i, &(*made)[i]));
    (*list)[i] = &(*made)[i];
  }
  return FLASHMLA_OK;
}

/* Pages that lie behind one another count as one. */
static void add_segment(fm_pool_memory *memory, fm_segment segment) {
  fm_segment *last = memory->num_segments > 0 ? &memory->segments[memory->num_segments - 1] : NULL;
  if (last != NULL && last->data != NULL && last->data + last->bytes == segment.data && last->step == segment.step)
    last->bytes += segment.bytes;
  else
    memory->segments[memory->num_segments++] = segment;
}

static flashmla_status read_layers(const checked *made, const fm_pages *pages, bool sizes_only, fm_pool_memory *memory,
                                   int64_t *block_bytes) {
  const fm_call *call = &made->call;
  const int64_t rows = (int64_t)pages->page_size * call->extents[FM_PAGES_HEADS];
  int64_t page_bytes;
  if (__builtin_mul_overflow(rows, (int64_t)call->extents[FM_PAGES_ROW], &page_bytes) ||
      __builtin_mul_overflow(page_bytes, (int64_t)fm_dtype_bytes(pages->dtype), &page_bytes) ||
      __builtin_mul_overflow(page_bytes, (int64_t)made->layers, block_bytes))
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "a block of kv_cache has more than 2^63 bytes; its size must fit 64 bits");
  if (sizes_only) return FLASHMLA_OK;
  memory->segments = malloc((size_t)made->layers * sizeof *memory->segments);
  if (memory->segments == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d layers could not be allocated", made->layers);
  for (int32_t i = 0; i < made->layers; ++i) {
    fm_view view;
    FM_TRY(fm_view_tensor(&call->tensors, KV_CACHE, i, false, &view));
    add_segment(memory, (fm_segment){view.data, view.stride[0] * fm_dtype_bytes(pages->dtype), page_bytes});
  }
  return FLASHMLA_OK;
}

static flashmla_status check_layers(const params_type *params, bool sizes_only, checked *made, fm_pool_sizes *sizes,
                                    fm_pool_memory *memory) {
  const DLTensor **list = NULL;
  DLTensor *layers = NULL;
  fm_pages pages;
  fm_call *call = &made->call;
  flashmla_status status = list_layers(params, made->layers, &layers, &list);
  if (status == FLASHMLA_OK) {
    params_type listed = *params;
    listed.kv_cache = list;
    call->form.listed = made->layers;
    begin(&listed, call->tensors.count, made);
    status = fm_check_pages(call, KV_CACHE, params->kv_format, true, &pages);
  }
  if (status == FLASHMLA_OK) status = read_layers(made, &pages, sizes_only, memory, &sizes->block_bytes);
  if (status == FLASHMLA_OK) {
    sizes->num_blocks = pages.num_blocks;
    sizes->page_size = pages.page_size;
    sizes->layers = made->layers;
  }
  free(list);
  free(layers);
  return status;
}

static flashmla_status view_arrays(checked *made, fm_pool_arrays *arrays) {
  const fm_tensors *tensors = &made->call.tensors;
  fm_view views[ROWS];
  for (int32_t row = BLOCK_TABLE; row < ROWS; ++row) FM_TRY(fm_view_tensor(tensors, row, 0, false, &views[row]));
  arrays->block_table = views[BLOCK_TABLE].data;
  arrays->row_step = views[BLOCK_TABLE].stride[0];
  arrays->cache_seqlens = views[CACHE_SEQLENS].data;
  arrays->slot_mapping = views[SLOT_MAPPING].data;
  return FLASHMLA_OK;
}

static flashmla_status check_host_tensor(const fm_tensors *tensors, int32_t row, int64_t least, void **data) {
  const DLTensor *tensor = fm_tensor_at(tensors, row, 0);
  const int32_t device = (int32_t)tensor->device.device_type;
  const char *name = tensors->rows[row].name;
  if (device != kDLCPU && device != CUDA_HOST)
    return fm_fail(FLASHMLA_ERROR_DEVICE, "%s.device.device_type is %d; it must be in host memory, kDLCPU (1) or %d",
                   name, device, CUDA_HOST);
  const int64_t extent = tensor->shape[tensor->ndim - 1];
  if (extent < least || (row == HOST_POOL && extent != least))
    return fm_fail(row == HOST_POOL ? FLASHMLA_ERROR_SHAPE : FLASHMLA_ERROR_WORKSPACE_TOO_SMALL,
                   "%s.shape[%d] is %lld; it must be %s%lld", name, tensor->ndim - 1, (long long)extent,
                   row == HOST_POOL ? "" : "at least ", (long long)least);
  fm_view view;
  FM_TRY(fm_view_tensor(tensors, row, 0, false, &view));
  if (row == HOST_POOL && view.stride[0] != extent && tensor->shape[0] > 1)
    return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[0] is %lld; it must be %lld: it is contiguous", name,
                   (long long)view.stride[0], (long long)extent);
  *data = view.data;
  return FLASHMLA_OK;
}

static flashmla_status check_host(const params_type *params, fm_pool_sizes *sizes, fm_pool_memory *memory) {
  fm_tensors tensors = {host_arguments, HOST_ROWS, host_axes, 0, {NULL}};
  int32_t extents[FM_MAX_AXES];
  void *data;
  fm_read_tensors(params, &tensors);
  const int64_t needed = memory->cuda ? FM_STAGING_BUFFERS * fm_staging_buffer_bytes(sizes) : 0;
  if (needed > 0 && params->staging == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "staging is {NULL|None}; %lld bytes of host memory are needed",
                   (long long)needed);
  FM_TRY(fm_check_presence(&tensors));
  FM_TRY(fm_check_dtypes(&tensors));
  FM_TRY(fm_check_extents(&tensors, extents));
  sizes->host_blocks = extents[HOST_BLOCKS];
  if (params->host_pool != NULL) {
    FM_TRY(check_host_tensor(&tensors, HOST_POOL, sizes->block_bytes, &data));
    memory->host = data;
  }
  if (params->staging != NULL) {
    FM_TRY(check_host_tensor(&tensors, STAGING, needed, &data));
    memory->staging = data;
    memory->staging_bytes = params->staging->shape[0];
  }
  return FLASHMLA_OK;
}

static flashmla_status count_sequences(const params_type *params, fm_pool_sizes *sizes) {
  const int64_t all = (int64_t)sizes->rows + sizes->host_blocks;
  if (params->max_sequences < 0 || params->max_sequences > MOST_SEQUENCES)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}max_sequences is %d; it must be in [0, %d]", params->max_sequences,
                   MOST_SEQUENCES);
  sizes->max_sequences = params->max_sequences > 0 ? params->max_sequences : (int32_t)fm_min64(all, MOST_SEQUENCES);
  return FLASHMLA_OK;
}

flashmla_status fm_check_pool(const flashmla_pool_params *given, bool sizes_only, flashmla_pool_params *params,
                              fm_pool_sizes *sizes, fm_pool_memory *memory, fm_pool_arrays *arrays) {
  checked made;
  memset(sizes, 0, sizeof *sizes);
  memset(memory, 0, sizeof *memory);
  FM_TRY(fm_read_params(given, &known, params));
  const bool blocks_only = arrays == NULL; /* nothing but blocks is asked for */
  FM_TRY(check_tensors(params, blocks_only ? KV_CACHE + 1 : ROWS, &made));
  const DLDevice device = fm_tensor_at(&made.call.tensors, KV_CACHE, 0)->device;
  memory->cuda = (int32_t)device.device_type == kDLCUDA;
  memory->device_id = device.device_id;
  FM_TRY(check_layers(params, sizes_only, &made, sizes, memory));
  if (blocks_only) return FLASHMLA_OK;
  sizes->rows = made.call.extents[MAX_SEQS];
  sizes->max_blocks = made.call.extents[MAX_BLOCKS];
  sizes->slots = made.call.extents[MAX_SLOTS];
  if (sizes_only) return FLASHMLA_OK;
  begin(params, ROWS, &made);
  FM_TRY(view_arrays(&made, arrays));
  FM_TRY(check_host(params, sizes, memory));
  return count_sequences(params, sizes);
}
