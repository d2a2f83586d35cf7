/* server.cpp - continuous batching over a pool of cache pages, on the CPU: requests arrive, begin with prefixes that
 * others computed, grow by a token a step, fork, and are swapped out and back while the pool is too small for all.
 * In the root of the source tree, after `python3 build.py lib`:
 *  g++ -std=c++17 examples/cpp/server.cpp -Ilibflashmla/include -Lbuild -lflashmla \
 *    -Wl,-R,bindings/python/flashmla -o build/server
 *  build/server
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <flashmla/flashmla.hpp>
#include <vector>

#include "model.hpp"

namespace {

using model::D_QK, model::D_V, model::HEADS, model::LAYERS, model::VOCABULARY;
constexpr int BLOCKS = 20, PAGE = 8, MAX_SEQS = 8, MAX_BLOCKS = 8, MAX_SLOTS = 256, HOST_BLOCKS = 64;
constexpr int MOST_STEPS = 200; /* a server that needs more goes no further */

enum class state { waiting, running, swapped, finished };

struct request {
  int number, arrives, wanted, fork_at; /* wanted: new tokens; fork_at: of which it forks behind so many, 0: never */
  std::vector<int64_t> tokens;          /* the prompt, then what was generated */
  std::size_t prompt = tokens.size();
  int parent = 0, swaps = 0;
  state now = state::waiting;
  flashmla::sequence sequence = {};
  int64_t shared = 0, length = 0; /* tokens that it began with, tokens in the cache */
  std::vector<float> logits = {}; /* that the last token was chosen by */

  int generated() const { return static_cast<int>(tokens.size() - prompt); }
};

/* The token of the highest logit, or of the second highest. */
int64_t best(std::vector<float> logits, bool second = false) {
  auto found = std::max_element(logits.begin(), logits.end());
  if (second) {
    *found = -HUGE_VALF;
    found = std::max_element(logits.begin(), logits.end());
  }
  return found - logits.begin();
}

class server {
 public:
  server() {
    const DLTensor *layers[LAYERS];
    for (int i = 0; i < LAYERS; ++i) {
      memory_[i].resize(BLOCKS * PAGE * D_QK);
      caches_[i] = {memory_[i].data(), {BLOCKS, PAGE, 1, D_QK}};
      layers[i] = caches_[i];
    }
    flashmla_pool_params params = FLASHMLA_POOL_PARAMS_INIT;
    params.kv_cache = layers, params.num_layers = LAYERS;
    params.block_table = block_table_, params.cache_seqlens = cache_seqlens_, params.slot_mapping = slot_mapping_;
    uint64_t bytes = 0;
    flashmla::checked(flashmla_pool_block_bytes(&params, &bytes));
    host_.resize(HOST_BLOCKS * bytes);
    const flashmla::tensor host_pool(host_.data(), {HOST_BLOCKS, static_cast<int64_t>(bytes)});
    params.host_pool = host_pool;
    pool_.create(params);
  }

  /* A prompt of `same` tokens that others begin with, too, and `own` ones. */
  void ask(int arrives, int wanted, int fork_at, int same, int own) {
    std::vector<int64_t> prompt;
    for (int i = 0; i < same; ++i) prompt.push_back((7 * i + 3) % VOCABULARY);
    for (int i = 0; i < own; ++i) prompt.push_back((11 * i + 5 * arrives + 17) % VOCABULARY);
    requests_.push_back({static_cast<int>(requests_.size()) + 1, arrives, wanted, fork_at, prompt});
  }

  void step(int now) {
    bring_back();
    for (request &each : requests_)
      if (each.now == state::waiting && each.arrives <= now) {
        pool_.allocate(each.tokens.data(), static_cast<int64_t>(each.tokens.size()), each.sequence, each.shared);
        each.length = each.shared;
        each.now = state::running;
      }
    const std::vector<request *> batch = grow();
    if (!batch.empty()) generate(batch);
  }

  const std::deque<request> &requests() const { return requests_; }

  flashmla_pool_usage usage() const {
    flashmla_pool_usage usage = FLASHMLA_POOL_USAGE_INIT;
    pool_.get_usage(usage);
    return usage;
  }

 private:
  std::vector<request *> running() {
    std::vector<request *> found;
    for (request &each : requests_)
      if (each.now == state::running) found.push_back(&each);
    return found;
  }

  /* Swapped requests, the oldest first, as long as there is room for them and for a block more of every request. */
  void bring_back() {
    for (request &each : requests_) {
      if (each.now != state::swapped) continue;
      flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
      each.sequence.get(about);
      const flashmla_pool_usage use = usage();
      const int blocks_of_step = static_cast<int>(running().size()) + 1;
      if (use.free_blocks + use.cached_blocks < about.num_blocks + blocks_of_step) return;
      each.sequence.swap_in();
      each.now = state::running;
    }
  }

  /* Room for the new tokens of all that run, in the order of their rows; where there is none the youngest has to go. */
  std::vector<request *> grow() {
    for (;;) {
      std::vector<request *> batch = running();
      std::sort(batch.begin(), batch.end(), [](request *a, request *b) { return row_of(*a) < row_of(*b); });
      std::vector<flashmla_sequence> names;
      std::vector<int32_t> counts;
      for (const request *each : batch) {
        names.push_back(each->sequence.name());
        counts.push_back(static_cast<int32_t>(each->tokens.size()) - static_cast<int32_t>(each->length));
      }
      int64_t total = 0;
      const flashmla::status done = flashmla::attempt(
          [&] { return pool_.append(names.data(), counts.data(), static_cast<int32_t>(names.size()), total); });
      if (done) return batch;
      if (done.code() != FLASHMLA_ERROR_OUT_OF_BLOCKS || batch.size() < 2)
        throw flashmla::error(done.code(), done.sentence());
      request &youngest = *running().back();
      youngest.sequence.swap_out();
      youngest.now = state::swapped;
      ++youngest.swaps;
    }
  }

  static int32_t row_of(const request &of) {
    flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
    of.sequence.get(about);
    return about.row;
  }

  /* A token for each of the batch, whose new tokens (a prompt, or the last one) have slots. */
  void generate(const std::vector<request *> &batch) {
    pool_.update();
    std::vector<int64_t> tokens;
    std::vector<int32_t> positions, first(MAX_SEQS + 1), ends; /* first query token of each row of block_table */
    for (request *each : batch) {
      for (; each->length < static_cast<int64_t>(each->tokens.size()); ++each->length) {
        tokens.push_back(each->tokens[static_cast<std::size_t>(each->length)]);
        positions.push_back(static_cast<int32_t>(each->length));
      }
      ends.push_back(static_cast<int32_t>(tokens.size()));
      std::fill(first.begin() + row_of(*each) + 1, first.end(), ends.back());
    }
    const std::vector<float> logits = model::logits<float>(
        weights_, tokens, positions, [&](int layer, const std::vector<float> &q, const std::vector<float> &rows) {
          return attend(layer, q, rows, first);
        });
    for (std::size_t i = 0; i < batch.size(); ++i)
      choose(*batch[i], {logits.begin() + (ends[i] - 1) * VOCABULARY, logits.begin() + ends[i] * VOCABULARY});
  }

  /* A layer: new rows go to the slots that the pool gave them, and queries attend the pages of their sequences. */
  std::vector<float> attend(int layer, const std::vector<float> &q, const std::vector<float> &rows,
                            const std::vector<int32_t> &first) {
    const int64_t n = first.back();
    const flashmla::tensor latent(rows.data(), {n, D_QK}), slots = slot_mapping_.first(n);
    flashmla_append_kv_params write = FLASHMLA_APPEND_KV_PARAMS_INIT;
    write.kv_cache = caches_[layer], write.latent = latent, write.slot_mapping = slots;
    flashmla::append_kv(write);

    std::vector<float> result(static_cast<std::size_t>(n * HEADS * D_V));
    const flashmla::tensor queries(q.data(), {n, HEADS, D_QK}), out(result.data(), {n, HEADS, D_V}),
        cu_seqlens_q(first.data(), {MAX_SEQS + 1});
    flashmla_dense_decode_params call = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    call.flags = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
    call.q = queries, call.kv_cache = caches_[layer], call.out = out;
    call.block_table = block_table_, call.cache_seqlens = cache_seqlens_;
    call.cu_seqlens_q = cu_seqlens_q, call.max_seqlen_q = INT32_MAX;
    flashmla::workspace_size(call, call.workspace_size);
    if (scratch_.size() < call.workspace_size) scratch_ = flashmla::host_buffer(call.workspace_size);
    call.workspace = scratch_.data();
    flashmla::dense_decode(call);
    return result;
  }

  /* The next token of a request, with which it may be done, or go two ways. */
  void choose(request &of, std::vector<float> logits) {
    of.sequence.commit(of.tokens.data(), of.length);
    of.logits = std::move(logits);
    of.tokens.push_back(best(of.logits));
    if (of.generated() == of.fork_at) {
      request child{static_cast<int>(requests_.size()) + 1, of.arrives, of.wanted, 0, of.tokens, of.prompt, of.number};
      of.sequence.fork(child.sequence);
      child.tokens.back() = best(of.logits, true);
      child.now = state::running;
      child.shared = child.length = of.length;
      requests_.push_back(std::move(child));
    }
    if (of.generated() < of.wanted) return;
    of.sequence.free();
    of.now = state::finished;
  }

  const model::weights weights_;
  std::vector<float> memory_[LAYERS];
  std::vector<int32_t> table_ = std::vector<int32_t>(MAX_SEQS * MAX_BLOCKS), lengths_ = std::vector<int32_t>(MAX_SEQS);
  std::vector<int64_t> slots_ = std::vector<int64_t>(MAX_SLOTS);
  std::vector<uint8_t> host_;
  flashmla::tensor caches_[LAYERS], block_table_{table_.data(), {MAX_SEQS, MAX_BLOCKS}},
      cache_seqlens_{lengths_.data(), {MAX_SEQS}}, slot_mapping_{slots_.data(), {MAX_SLOTS}};
  flashmla::buffer scratch_;
  flashmla::pool pool_;
  std::deque<request> requests_; /* behind the pool: their sequences end first */
};

/* Of the logits that a request's last token was chosen by, relative to the largest, all tokens computed anew. */
double difference(const request &of) {
  static const model::weights weights;
  const std::vector<double> expected = model::reference(weights, {of.tokens.begin(), of.tokens.end() - 1});
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(expected[i] - static_cast<double>(of.logits[i])));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

int serve() {
  server server;
  server.ask(0, 20, 0, 24, 4);
  server.ask(1, 24, 6, 24, 9);
  server.ask(2, 16, 0, 0, 30);
  server.ask(3, 12, 0, 24, 2);
  server.ask(4, 18, 0, 0, 13);
  server.ask(6, 10, 0, 24, 17);
  int steps = 0;
  const auto finished = [](const request &each) { return each.now == state::finished; };
  const std::deque<request> &requests = server.requests();
  while (!std::all_of(requests.begin(), requests.end(), finished)) {
    if (steps == MOST_STEPS) return std::fprintf(stderr, "requests are not finished after %d steps\n", steps), 1;
    server.step(steps++);
  }

  std::printf("request  prompt  shared  generated  swaps  difference\n");
  int64_t shared = 0, forks = 0, swaps = 0;
  double worst = 0;
  for (const request &each : requests) {
    const double own = difference(each);
    std::printf("%7d%8zu%8lld%11d%7d%12.1e", each.number, each.prompt, static_cast<long long>(each.shared),
                each.generated(), each.swaps, own);
    if (each.parent != 0) {
      std::printf("  fork of %d", each.parent);
      ++forks;
    } else {
      shared += each.shared;
    }
    std::printf("\n");
    swaps += each.swaps;
    worst = std::max(worst, own);
  }
  const flashmla_pool_usage left = server.usage();
  std::printf("%d steps; of %d blocks %d are free, %d cached, %d used\n", steps, left.num_blocks, left.free_blocks,
              left.cached_blocks, left.used_blocks);
  const bool seen = shared > 0 && forks > 0 && swaps > 0, clean = left.sequences == 0 && left.used_blocks == 0;
  return seen && clean && worst < 1e-5 ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return serve();
  } catch (const flashmla::error &failure) {
    return std::fprintf(stderr, "%s\n", failure.what()), 1;
  }
}
