/* check.c - see check.h. */
#include "attention/check.h"

#include <float.h>
#include <math.h>

#include "cuda/kernel_params.h"

static const fm_geometry of_kernels[] = {FM_KERNEL_GEOMETRIES},
                         geometries[] = {{576, 512}, {512, 512}, {320, 256}, {288, 256}, {160, 128}, {1088, 1024}};
enum { GEOMETRIES = sizeof geometries / sizeof geometries[0], OF_KERNELS = sizeof of_kernels / sizeof of_kernels[0] };

const fm_geometry *fm_geometry_at(int32_t i) { return i < GEOMETRIES ? &geometries[i] : NULL; }

const fm_geometry *fm_kernel_geometry(int32_t d_qk, int32_t d_v) {
  const fm_geometry *found = NULL;
  for (int32_t i = 0; i < OF_KERNELS; ++i) {
    const fm_geometry *kernel = &of_kernels[i];
    if (kernel->d_v != d_v) continue;
    if (kernel->d_qk == d_qk) return kernel;
    if (kernel->d_qk > d_qk && d_qk > d_v) found = kernel;
  }
  return found;
}

flashmla_status fm_check_queries(const DLTensor *cu_seqlens_q, const DLTensor *q_rope, int32_t max_seqlen_q,
                                 fm_form *form) {
  form->varlen = cu_seqlens_q != NULL;
  form->parted = q_rope != NULL;
  if (form->varlen && max_seqlen_q <= 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}max_seqlen_q is %d; with cu_seqlens_q it must be > 0",
                   max_seqlen_q);
  if (!form->varlen && max_seqlen_q != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}max_seqlen_q is %d; without cu_seqlens_q it must be 0",
                   max_seqlen_q);
  return FLASHMLA_OK;
}

fm_work fm_work_of(const fm_call *call, int32_t batch, uint32_t flags, int32_t max_seqlen_q) {
  const int32_t *extents = call->extents;
  const bool varlen = call->form.varlen;
  return (fm_work){.batch = batch,
                   /* No request has more tokens than all have, and tiles are made for as many as one may have. */
                   .s_q = varlen ? fm_min32(max_seqlen_q, extents[FM_TOTAL_Q]) : extents[FM_S_Q],
                   .h_q = extents[FM_H_Q],
                   .h_kv = 1,
                   .varlen = varlen,
                   .total_q = extents[FM_TOTAL_Q],
                   .batch_invariant = (flags & FLASHMLA_BATCH_INVARIANT) != 0};
}

static bool is_supported(const fm_geometry *geometry, bool cuda, int32_t kernels_d_v) {
  if (!cuda) return true;
  const bool has_kernels = kernels_d_v == 0 || geometry->d_v == kernels_d_v;
  return has_kernels && fm_kernel_geometry(geometry->d_qk, geometry->d_v) != NULL;
}

/* "576, 512, 320, 288 and 160": d_qk of those that are supported. */
static fm_text supported_d_qk(bool cuda, int32_t kernels_d_v) {
  fm_text text = {""};
  int32_t last = GEOMETRIES - 1;
  while (!is_supported(&geometries[last], cuda, kernels_d_v)) --last;
  for (int32_t i = 0; i <= last; ++i)
    if (is_supported(&geometries[i], cuda, kernels_d_v))
      fm_append(&text, "%s%d", i == 0 ? "" : i == last ? " and " : ", ", geometries[i].d_qk);
  return text;
}

fm_text fm_name_d_qk(const fm_call *call, int32_t q) {
  const int32_t inner = call->tensors.rows[q].rank - 1;
  return call->form.parted ? fm_text_of("q.shape[%d] + q_rope.shape[%d]", inner, inner)
                           : fm_text_of("q.shape[%d]", inner);
}

static int32_t columns_of(const fm_call *call, int32_t row) {
  const fm_argument *rule = &call->tensors.rows[row];
  return call->extents[rule->axes[rule->rank - 1]];
}

/* NULL: there is none. */
static const fm_geometry *find_geometry(int64_t d_qk) {
  int32_t found = 0;
  while (found < GEOMETRIES && geometries[found].d_qk != d_qk) ++found;
  return fm_geometry_at(found);
}

/* Queries in two parts: the first has the latent columns, which out has too. They are as many as no d_qk with RoPE
 * columns, so that a q which has those as well is known for it, whatever out and q_rope are. `given`: d_v of out; 0:
 * there is none. */
static flashmla_status check_first_part(const fm_call *call, int32_t q, int32_t given) {
  const int32_t columns = columns_of(call, q), inner = call->tensors.rows[q].rank - 1;
  const fm_geometry *whole = find_geometry(columns);
  if (whole != NULL && whole->d_qk != whole->d_v)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "q.shape[%d] is %d (d_qk); with q_rope it must be %d (d_v)", inner, columns,
                   whole->d_v);
  if (given != 0 && given != columns)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.shape[%d] is %d, q.shape[%d] (d_v) is %d; they must be equal", inner,
                   given, inner, columns);
  return FLASHMLA_OK;
}

/* The parts make up a geometry. */
static flashmla_status check_parts(const fm_call *call, int32_t q, fm_geometry geometry) {
  const int32_t columns = columns_of(call, q);
  if (geometry.d_qk == geometry.d_v)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "q_rope is given; with %s (d_qk) %d, which has no columns behind d_v, it must be left out",
                   fm_name_d_qk(call, q).chars, geometry.d_qk);
  if (columns != geometry.d_v)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (d_v) is %d; supported with q_rope and d_qk %d is %d",
                   call->tensors.rows[q].rank - 1, columns, geometry.d_qk, geometry.d_v);
  return FLASHMLA_OK;
}

flashmla_status fm_check_geometry(const fm_call *call, int32_t q, int32_t q_rope, int32_t given, int32_t kernels_d_v,
                                  fm_attention *attention) {
  const bool parted = call->form.parted;
  const int64_t d_qk = (int64_t)columns_of(call, q) + (parted ? columns_of(call, q_rope) : 0);
  const fm_geometry *geometry = find_geometry(d_qk);
  if (parted) FM_TRY(check_first_part(call, q, given));
  if (geometry == NULL || !is_supported(geometry, call->cuda, kernels_d_v))
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s (d_qk) is %lld; supported%s are %s", fm_name_d_qk(call, q).chars,
                   (long long)d_qk, call->cuda ? " on CUDA" : "", supported_d_qk(call->cuda, kernels_d_v).chars);
  if (parted) FM_TRY(check_parts(call, q, *geometry));
  const int32_t d_v = geometry->d_v;
  if (given != 0 && given != d_v)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.shape[%d] (d_v) is %d; with d_qk %d it must be %d",
                   call->tensors.rows[q].rank - 1, given, (int32_t)d_qk, d_v);
  const fm_dtype dtype = fm_dtype_of(fm_tensor_at(&call->tensors, q, 0)->dtype);
  attention->queries.coded = (FM_ONLY(dtype) & FM_ANY_BYTE) != 0;
  attention->queries.dtype = attention->queries.coded ? FM_BF16 : dtype;
  attention->queries.parted = parted;
  attention->queries.d_qk = (int32_t)d_qk;
  attention->d_v = d_v;
  return FLASHMLA_OK;
}

void fm_set_scale(double scale, fm_queries *queries) {
  const double log2 = scale * M_LOG2E;
  queries->softmax_scale = scale;
  queries->scale_log2 = log2 > (double)FLT_MAX ? FLT_MAX : log2 < (double)FLT_MIN ? FLT_MIN : (float)log2;
}

flashmla_status fm_check_scale(uint32_t flags, float softmax_scale, fm_queries *queries) {
  const bool is_default = (flags & FLASHMLA_DEFAULT_SCALE) != 0;
  if (!is_default && (!isfinite(softmax_scale) || softmax_scale <= 0.0f))
    return fm_fail(
        FLASHMLA_ERROR_VALUE,
        "{params.|}softmax_scale is %g; it must be finite and > 0, or {set FLASHMLA_DEFAULT_SCALE|softmax_scale=None}",
        (double)softmax_scale);
  fm_set_scale(is_default ? 1.0f / sqrtf((float)queries->d_qk) : softmax_scale, queries);
  return FLASHMLA_OK;
}

void fm_read_results(const fm_call *call, fm_result_rows rows, uint32_t flags, fm_attention *attention) {
  const bool varlen = call->form.varlen;
  fm_output *output = &attention->output;
  output->dtype = fm_dtype_of(fm_tensor_at(&call->tensors, rows.out, 0)->dtype);
  output->value_scale = 1;
  output->lse_base2 = (flags & FLASHMLA_LSE_BASE2) != 0;
  output->empty_lse = fm_empty_lse(flags);
  fm_strides_from_batch(call->views[rows.out].stride, varlen, output->out_stride);
  fm_strides_from_batch(call->views[rows.lse].stride, varlen, output->lse_stride);
  const int32_t rope = attention->queries.parted ? rows.q_rope : rows.q;
  fm_strides_from_batch(call->views[rows.q].stride, varlen, attention->queries.stride);
  fm_strides_from_batch(call->views[rope].stride, varlen, attention->queries.rope_stride);
}

void fm_bind_results(const fm_call *call, fm_result_rows rows, fm_attention *attention) {
  fm_queries *queries = &attention->queries;
  queries->data = call->views[rows.q].data;
  queries->rope = queries->parted ? call->views[rows.q_rope].data
                                  : (const char *)queries->data + attention->d_v * fm_query_bytes(queries);
  attention->output.out = call->views[rows.out].data;
  attention->output.lse = call->views[rows.lse].data;
  attention->output.sink = call->views[rows.sink].data;
}
