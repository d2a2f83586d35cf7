/* launch.c - the GPU backend: tensor maps, kernel parameters, launches on the caller's stream. */
#include <math.h>
#include <string.h>

#include "cuda/kernel_params.h"
#include "cuda/kernels.h"

#define BLOCK_ROWS 64
#define MAX_CLUSTER 2
#define START_OVERHEAD 4 /* pages: a tile's Q load, pipeline fill and output take about as long as 4 pages */
#define SPLIT_OVERHEAD 8 /* pages: partial rows and their merge */
#define HOPPER 90
#define PDL_IN_GRAPHS 12030 /* first driver that captures programmatic dependent launches in CUDA graphs */

/* What every launch of one call shares. */
typedef struct session {
  const fm_driver *driver;
  const fm_run *run;
  fm_device device;
  int driver_version;
  bool pushed;
} session;

static flashmla_status begin(session *s, const fm_run *run) {
  flashmla_status status;
  *s = (session){.run = run, .driver = fm_driver_open(&status)};
  if (!s->driver) return status;
  FM_DRIVER_TRY(s->driver, driver_get_version(&s->driver_version));
  status = fm_device_get(s->driver, run->problem.device_id, &s->device);
  if (status != FLASHMLA_OK) return status;
  return fm_device_enter(s->driver, run->problem.device_id, &s->pushed);
}

flashmla_status fm_cuda_limits(const fm_problem *problem, fm_backend_limits *limits) {
  if (fm_kernel_count == 0)
    return fm_fail(FLASHMLA_ERROR_NO_KERNELS, "q is on a CUDA device, but this library was built without GPU kernels");
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (!driver) return status;
  fm_device device;
  status = fm_device_get(driver, problem->device_id, &device);
  if (status != FLASHMLA_OK) return status;
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

/* Launches the table row for (operation, dtype, cluster); `params` is its struct of kernel_params.h, `list` the offsets
 * in it. */
static flashmla_status launch(const session *s, fm_operation operation, int32_t cluster, unsigned grid, void *params,
                              const fm_param *list, size_t count) {
  const fm_problem *p = &s->run->problem;
  const fm_kernel *kernel = fm_kernel_find(operation, (int32_t)p->dtype, cluster, s->driver_version);
  if (!kernel)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "no kernel of this library fits the call on driver version %d",
                   s->driver_version);
  CUkernel handle;
  flashmla_status status = fm_kernel_load(s->driver, kernel, p->device_id, &handle);
  if (status != FLASHMLA_OK) return status;
  void *pointers[64];
  for (size_t i = 0; i < count; i++) pointers[i] = (char *)params + list[i].offset;
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
                           .hStream = (CUstream)p->stream,
                           .attrs = attributes,
                           .numAttrs = s->driver_version >= PDL_IN_GRAPHS ? 2 : 1};
  FM_DRIVER_TRY(s->driver, launch_kernel_ex(&config, (CUfunction)handle, pointers, NULL));
  if (operation == FM_DENSE_DECODE) fm_set_last_kernel(kernel->name);
  return FLASHMLA_OK;
}
#define LAUNCH(session, operation, cluster, grid, params, list) \
  launch(session, operation, cluster, grid, &(params), list, sizeof(list) / sizeof *(list))

/* Strides of the outer dimensions in bytes; where the extent is 1 any legal value will do. */
static void set_stride(uint64_t *strides, const uint64_t *extents, int dimension, int64_t elements) {
  strides[dimension - 1] = extents[dimension] > 1 ? (uint64_t)elements * 2 : 16;
}

static flashmla_status encode(const session *s, CUtensorMap *map, const void *address, uint32_t rank,
                              const uint64_t *extents, const uint64_t *strides, const uint32_t *box) {
  static const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  int dtype = s->run->problem.dtype == FM_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  FM_DRIVER_TRY(s->driver,
                tensor_map_encode_tiled(map, dtype, rank, (void *)(uintptr_t)address, extents, strides, box,
                                        element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return FLASHMLA_OK;
}

/* q as (d, head in group, token, KV head, request); the box is one row block. Rows beyond the tensor read as zeros. */
static flashmla_status encode_q(const session *s, CUtensorMap *map) {
  const fm_problem *p = &s->run->problem;
  const fm_tiling *t = &s->run->tiling;
  uint64_t extents[5] = {(uint64_t)p->d_qk, (uint64_t)t->group, (uint64_t)p->s_q, (uint64_t)p->h_kv,
                         (uint64_t)p->batch},
           strides[4];
  set_stride(strides, extents, 1, p->q_stride[2]);
  set_stride(strides, extents, 2, p->q_stride[1]);
  set_stride(strides, extents, 3, p->q_stride[2] * t->group);
  set_stride(strides, extents, 4, p->q_stride[0]);
  uint32_t box[5] = {64, (uint32_t)t->block_heads, (uint32_t)t->block_tokens, 1, 1};
  return encode(s, map, p->q, 5, extents, strides, box);
}

/* kv_cache as (d, row, head, block). A page number outside [0, num_blocks) reads as zeros: the hardware checks the
 * bounds. */
static flashmla_status encode_kv(const session *s, CUtensorMap *map) {
  const fm_problem *p = &s->run->problem;
  uint64_t extents[4] = {(uint64_t)p->d_qk, (uint64_t)p->page_size, (uint64_t)p->h_kv, (uint64_t)p->num_blocks},
           strides[3];
  set_stride(strides, extents, 1, p->kv_stride[1]);
  set_stride(strides, extents, 2, p->kv_stride[2]);
  set_stride(strides, extents, 3, p->kv_stride[0]);
  uint32_t box[4] = {64, (uint32_t)(p->page_size / s->run->tiling.cluster), 1, 1};
  return encode(s, map, p->kv, 4, extents, strides, box);
}

static flashmla_status launch_plan(const session *s) {
  static const fm_param list[] = FM_PLAN_PARAMS;
  const fm_problem *p = &s->run->problem;
  const fm_tiling *t = &s->run->tiling;
  fm_plan_kernel_params params = {.cache_seqlens = p->cache_seqlens,
                                  .cuts = &s->run->cuts->tile,
                                  .cost_before = s->run->cost_before,
                                  .batch = p->batch,
                                  .max_blocks = p->max_blocks,
                                  .tiles_per_request = t->tiles_per_request,
                                  .num_tiles = t->num_tiles,
                                  .num_parts = t->num_parts,
                                  .num_splits = t->num_splits,
                                  .start_overhead = t->start_overhead,
                                  .split_overhead = t->split_overhead};
  return LAUNCH(s, FM_PLAN, 0, 1, params, list);
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

static flashmla_status launch_dense_decode(const session *s) {
  static const fm_param list[] = FM_DENSE_DECODE_PARAMS;
  const fm_problem *p = &s->run->problem;
  const fm_tiling *t = &s->run->tiling;
  fm_dense_decode_kernel_params params = {TILE_FIELDS(s->run),
                                          .block_table = p->block_table,
                                          .cache_seqlens = p->cache_seqlens,
                                          .block_table_stride = p->block_table_stride,
                                          .scale_log2 = (float)((double)p->softmax_scale * 1.4426950408889634074),
                                          .max_blocks = p->max_blocks,
                                          .causal = p->causal};
  flashmla_status status = encode_q(s, &params.tma_q);
  if (status == FLASHMLA_OK) status = encode_kv(s, &params.tma_kv);
  if (status != FLASHMLA_OK) return status;
  /* persistent: clusters take parts in turn, so there are never more than run at once */
  int32_t clusters = s->device.processors / t->cluster;
  if (clusters > t->num_parts) clusters = t->num_parts;
  return LAUNCH(s, FM_DENSE_DECODE, t->cluster, (unsigned)(clusters * t->cluster), params, list);
}

static flashmla_status launch_combine(const session *s) {
  static const fm_param list[] = FM_COMBINE_PARAMS;
  fm_combine_kernel_params params = {TILE_FIELDS(s->run), .cluster = s->run->tiling.cluster};
  return LAUNCH(s, FM_COMBINE, 0, (unsigned)s->device.processors, params, list);
}

flashmla_status fm_cuda_plan(const fm_run *run) {
  session s;
  flashmla_status status = begin(&s, run);
  if (status != FLASHMLA_OK) return status;
  status = launch_plan(&s);
  fm_device_leave(s.driver, s.pushed);
  return status;
}

flashmla_status fm_cuda_dense_decode(const fm_run *run) {
  session s;
  flashmla_status status = begin(&s, run);
  if (status != FLASHMLA_OK) return status;
  if (run->make_plan) status = launch_plan(&s);
  if (status == FLASHMLA_OK) status = launch_dense_decode(&s);
  if (status == FLASHMLA_OK && run->partial) status = launch_combine(&s);
  fm_device_leave(s.driver, s.pushed);
  return status;
}
