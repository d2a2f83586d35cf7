/* flashmla.hpp - flashmla.h for C++17: objects that free what they own, and failures as exceptions or as statuses.
 *
 * Header only, and thin: names, arguments, rules and sentences are those of flashmla.h, and whatever has no wrapper
 * here is called as there. Params structs are the C ones, begun with their FLASHMLA_<STRUCT>_INIT.
 *
 * Example: a decode step on tensors in host memory
 *
 *   #include <flashmla/flashmla.hpp>
 *
 *   void decode_step(const float *q, const float *kv_cache, const int32_t *table, const int32_t *lengths, float *out) {
 *     const flashmla::tensor queries(q, {2, 1, 16, 576}), cache(kv_cache, {8, 64, 1, 576}), pages(table, {2, 3}),
 *         seqlens(lengths, {2}), result(out, {2, 1, 16, 512});
 *     flashmla_dense_decode_params p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
 *     p.flags = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
 *     p.q = queries, p.kv_cache = cache, p.block_table = pages, p.cache_seqlens = seqlens, p.out = result;
 *     flashmla::workspace_size(p, p.workspace_size);
 *     const flashmla::buffer scratch = flashmla::host_buffer(p.workspace_size);
 *     p.workspace = scratch.data();
 *     flashmla::dense_decode(p); // throws flashmla::error: what() says what is wrong
 *   }
 *
 * Failures: every call returns a flashmla::status. With exceptions a call that fails throws a flashmla::error instead
 * of returning; without (-fno-exceptions, or FLASHMLA_EXCEPTIONS defined as 0 before) the status has to be looked at.
 * flashmla::attempt makes a call and gives its status either way. Source files of both forms may be linked together.
 *
 * Objects: those that own something can be moved and not copied. One that was moved from, or never filled, owns
 * nothing; it may be filled, moved to or destroyed, and any other call with it is refused like one with NULL. Filling
 * an object lets what it had go, once the new is there. A thread that uses an object while another one changes it has
 * to lock.
 */
#ifndef FLASHMLA_HPP_
#define FLASHMLA_HPP_

#include "flashmla.h"
#include "calls.hpp"
#include "pool.hpp"
#include "status.hpp"
#include "tensor.hpp"

#endif /* FLASHMLA_HPP_ */
