/* launch.c - the GPU backend: tensor maps, kernel parameters, launches on the caller's stream. */
#include "cuda/kernel_params.h"
#include "cuda/kernels.h"
#include "try.h"

#define BLOCK_ROWS 64
#define MAX_CLUSTER 2
#define START_OVERHEAD 4 /* pages: a tile's Q load, pipeline fill and output take about as long as 4 pages */
#define SPLIT_OVERHEAD 8 /* pages: partial rows and their merge */
#define HOPPER 90
#define PDL_IN_GRAPHS 12030 /* first driver that captures programmatic dependent launches in CUDA graphs */
#define MAX_PARAMS 64 /* of a kernel */

/* What every launch of one call shares. */
typedef struct launcher {
  const fm_driver *driver;
  const fm_run *run;
  fm_device device;
  int driver_version;
  bool pushed;
} launcher;

/* A kernel that is loaded on the call's device. */
typedef struct loaded_kernel {
  const fm_kernel *kernel;
  CUkernel handle;
} loaded_kernel;

static flashmla_status get_device(const fm_driver *driver, const fm_problem *problem, fm_device *device) {
  return fm_device_get(driver, "q.device.device_id", problem->device_id, device);
}

static flashmla_status begin(launcher *l, const fm_run *run) {
  flashmla_status status;
  *l = (launcher){.run = run, .driver = fm_driver_open(&status)};
  if (!l->driver) return status;
  FM_DRIVER_TRY(l->driver, driver_get_version(&l->driver_version));
  FM_TRY(get_device(l->driver, &run->problem, &l->device));
  return fm_device_enter(l->driver, &l->device, &l->pushed);
}

flashmla_status fm_cuda_limits(const fm_problem *problem, fm_backend_limits *limits) {
  if (fm_kernel_count == 0)
    return fm_fail(FLASHMLA_ERROR_NO_KERNELS, "q is on a CUDA device, but this library was built without GPU kernels");
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (!driver) return status;
  fm_device device;
  FM_TRY(get_device(driver, problem, &device));
  if (device.architecture != HOPPER)
    return fm_fail(FLASHMLA_ERROR_ARCHITECTURE,
                   "CUDA device %d is of architecture sm_%d; this library has kernels for sm_90a (Hopper) only",
                   problem->device_id, device.architecture);
  *limits = (fm_backend_limits){.block_rows = BLOCK_ROWS,
                                .max_cluster = MAX_CLUSTER,
                                .workers = device.processors,
                                .start_overhead = START_OVERHEAD,
                                .split_overhead = SPLIT_OVERHEAD};
  return FLASHMLA_OK;
}

/* Finds and loads the table row for (operation, dtype, cluster); cluster 0: any. */
static flashmla_status load(const launcher *l, fm_operation operation, int32_t cluster, loaded_kernel *loaded) {
  loaded->kernel = fm_kernel_find(operation, (int32_t)l->run->problem.dtype, cluster, l->driver_version);
  if (!loaded->kernel)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "no kernel of this library fits the call on driver version %d",
                   l->driver_version);
  return fm_kernel_load(l->driver, loaded->kernel, &l->device, &loaded->handle);
}

/* `params`: the kernel's struct of kernel_params.h; `list`: the offsets in it. */
static flashmla_status launch(const launcher *l, const loaded_kernel *loaded, unsigned grid, const void *params,
                              const fm_param *list, size_t count) {
  const fm_kernel *kernel = loaded->kernel;
  void *pointers[MAX_PARAMS];
  for (size_t i = 0; i < count; i++) pointers[i] = (char *)(uintptr_t)params + list[i].offset;
  CUlaunchAttribute attributes[2] = {{.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION},
                                     {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION}};
  attributes[0].value.clusterDim.x = (unsigned)kernel->cluster;
  attributes[0].value.clusterDim.y = attributes[0].value.clusterDim.z = 1;
  /* The kernels wait for what is before them in the stream themselves, so their launch may overlap its end. */
  attributes[1].value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config = {.gridDimX = grid,
                           .gridDimY = 1,
                           .gridDimZ = 1,
                           .blockDimX = (unsigned)kernel->threads,
                           .blockDimY = 1,
                           .blockDimZ = 1,
                           .sharedMemBytes = (unsigned)kernel->shared_bytes,
                           .hStream = (CUstream)l->run->problem.stream,
                           .attrs = attributes,
                           .numAttrs = l->driver_version >= PDL_IN_GRAPHS ? 2 : 1};
  FM_DRIVER_TRY(l->driver, launch_kernel_ex(&config, (CUfunction)loaded->handle, pointers, NULL));
  return FLASHMLA_OK;
}

/* Launches with `params`, and `list` an array. */
#define LAUNCH(launcher, loaded, grid, params, list)                                              \
  do {                                                                                            \
    _Static_assert(sizeof(list) / sizeof *(list) <= MAX_PARAMS, "every parameter has a pointer"); \
    FM_TRY(launch(launcher, loaded, grid, params, list, sizeof(list) / sizeof *(list)));          \
  } while (0)

/* Strides of the outer dimensions in bytes; where the extent is 1 any legal value will do. */
static void set_stride(uint64_t *strides, const uint64_t *extents, int dimension, int64_t elements) {
  strides[dimension - 1] = extents[dimension] > 1 ? (uint64_t)elements * 2 : 16;
}

static flashmla_status encode(const launcher *l, CUtensorMap *map, const void *address, uint32_t rank,
                              const uint64_t *extents, const uint64_t *strides, const uint32_t *box) {
  static const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  int dtype = l->run->problem.dtype == FM_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  FM_DRIVER_TRY(l->driver,
                tensor_map_encode_tiled(map, dtype, rank, (void *)(uintptr_t)address, extents, strides, box,
                                        element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return FLASHMLA_OK;
}

/* q as (d, head in group, token, KV head, request); the box is one row block. Rows beyond the tensor read as zeros. */
static flashmla_status encode_q(const launcher *l, CUtensorMap *map) {
  const fm_problem *p = &l->run->problem;
  const fm_tiling *t = &l->run->tiling;
  uint64_t extents[5] = {(uint64_t)p->d_qk, (uint64_t)t->group, (uint64_t)p->s_q, (uint64_t)p->h_kv,
                         (uint64_t)p->batch},
           strides[4];
  set_stride(strides, extents, 1, p->q_stride[2]);
  set_stride(strides, extents, 2, p->q_stride[1]);
  set_stride(strides, extents, 3, p->q_stride[2] * t->group);
  set_stride(strides, extents, 4, p->q_stride[0]);
  uint32_t box[5] = {64, (uint32_t)t->block_heads, (uint32_t)t->block_tokens, 1, 1};
  return encode(l, map, p->q, 5, extents, strides, box);
}

/* kv_cache as (d, row, head, block). A page number outside [0, num_blocks) reads as zeros: the hardware checks the
 * bounds. */
static flashmla_status encode_kv(const launcher *l, CUtensorMap *map) {
  const fm_problem *p = &l->run->problem;
  uint64_t extents[4] = {(uint64_t)p->d_qk, (uint64_t)p->page_size, (uint64_t)p->h_kv, (uint64_t)p->num_blocks},
           strides[3];
  set_stride(strides, extents, 1, p->kv_stride[1]);
  set_stride(strides, extents, 2, p->kv_stride[2]);
  set_stride(strides, extents, 3, p->kv_stride[0]);
  uint32_t box[4] = {64, (uint32_t)(p->page_size / l->run->tiling.cluster), 1, 1};
  return encode(l, map, p->kv, 4, extents, strides, box);
}

static flashmla_status launch_plan(const launcher *l, const loaded_kernel *loaded) {
  static const fm_param list[] = FM_PLAN_PARAMS;
  const fm_problem *p = &l->run->problem;
  const fm_tiling *t = &l->run->tiling;
  fm_plan_kernel_params params = {.cache_seqlens = p->cache_seqlens,
                                  .cuts = &l->run->cuts->tile,
                                  .cost_before = l->run->cost_before,
                                  .batch = p->batch,
                                  .max_blocks = p->max_blocks,
                                  .tiles_per_request = t->tiles_per_request,
                                  .num_tiles = t->num_tiles,
                                  .num_parts = t->num_parts,
                                  .num_splits = t->num_splits,
                                  .start_overhead = t->start_overhead,
                                  .split_overhead = t->split_overhead};
  LAUNCH(l, loaded, 1, &params, list);
  return FLASHMLA_OK;
}

/* The fields that dense_decode and combine have in common. */
#define TILE_FIELDS(run)                                                                                               \
  .cuts = &(run)->cuts->tile, .partial = (run)->partial, .partial_lse = (run)->partial_lse, .out = (run)->problem.out, \
  .lse = (run)->problem.lse, .out_stride_b = (run)->problem.out_stride[0],                                             \
  .out_stride_s = (run)->problem.out_stride[1], .out_stride_h = (run)->problem.out_stride[2],                          \
  .lse_stride_b = (run)->problem.lse_stride[0], .lse_stride_h = (run)->problem.lse_stride[1],                          \
  .lse_stride_s = (run)->problem.lse_stride[2], .s_q = (run)->problem.s_q, .group = (run)->tiling.group,               \
  .block_heads = (run)->tiling.block_heads, .block_tokens = (run)->tiling.block_tokens,                                \
  .head_chunks = (run)->tiling.head_chunks, .tiles_per_head = (run)->tiling.tiles_per_head,                            \
  .batch = (run)->problem.batch, .num_tiles = (run)->tiling.num_tiles, .num_parts = (run)->tiling.num_parts

static flashmla_status fill_dense_decode(const launcher *l, fm_dense_decode_kernel_params *params) {
  const fm_problem *p = &l->run->problem;
  *params = (fm_dense_decode_kernel_params){TILE_FIELDS(l->run),
                                            .block_table = p->block_table,
                                            .cache_seqlens = p->cache_seqlens,
                                            .block_table_stride = p->block_table_stride,
                                            .scale_log2 = p->scale_log2,
                                            .max_blocks = p->max_blocks,
                                            .causal = p->causal};
  FM_TRY(encode_q(l, &params->tma_q));
  return encode_kv(l, &params->tma_kv);
}

static flashmla_status launch_dense_decode(const launcher *l, const loaded_kernel *loaded,
                                           const fm_dense_decode_kernel_params *params) {
  static const fm_param list[] = FM_DENSE_DECODE_PARAMS;
  const fm_tiling *t = &l->run->tiling;
  /* persistent: clusters take parts in turn, so there are never more than run at once */
  int32_t clusters = l->device.processors / t->cluster;
  if (clusters > t->num_parts) clusters = t->num_parts;
  LAUNCH(l, loaded, (unsigned)(clusters * t->cluster), params, list);
  return FLASHMLA_OK;
}

static flashmla_status launch_combine(const launcher *l, const loaded_kernel *loaded) {
  static const fm_param list[] = FM_COMBINE_PARAMS;
  const fm_combine_kernel_params params = {TILE_FIELDS(l->run), .cluster = l->run->tiling.cluster};
  LAUNCH(l, loaded, (unsigned)l->device.processors, &params, list);
  return FLASHMLA_OK;
}

static flashmla_status run_plan(const launcher *l) {
  loaded_kernel plan;
  FM_TRY(load(l, FM_PLAN, 0, &plan));
  FM_TRY(launch_plan(l, &plan));
  fm_set_last_kernel(plan.kernel->name);
  return FLASHMLA_OK;
}

/* All that can fail but the launches themselves comes before the first launch. */
static flashmla_status run_dense_decode(const launcher *l) {
  const bool make_plan = l->run->make_plan, merge = l->run->partial != NULL;
  loaded_kernel plan = {0}, dense_decode, combine = {0};
  fm_dense_decode_kernel_params params;
  if (make_plan) FM_TRY(load(l, FM_PLAN, 0, &plan));
  FM_TRY(load(l, FM_DENSE_DECODE, l->run->tiling.cluster, &dense_decode));
  if (merge) FM_TRY(load(l, FM_COMBINE, 0, &combine));
  FM_TRY(fill_dense_decode(l, &params));
  if (make_plan) FM_TRY(launch_plan(l, &plan));
  FM_TRY(launch_dense_decode(l, &dense_decode, &params));
  if (merge) FM_TRY(launch_combine(l, &combine));
  fm_set_last_kernel(dense_decode.kernel->name);
  return FLASHMLA_OK;
}

static flashmla_status run_on_device(const fm_run *run, flashmla_status (*work)(const launcher *l)) {
  launcher l;
  FM_TRY(begin(&l, run));
  const flashmla_status status = work(&l);
  fm_device_leave(l.driver, l.pushed);
  return status;
}

flashmla_status fm_cuda_plan(const fm_run *run) { return run_on_device(run, run_plan); }

flashmla_status fm_cuda_dense_decode(const fm_run *run) { return run_on_device(run, run_dense_decode); }
