/* model.hpp - random weights that stand for a model with MLA, and its attention as a plain loop to check a server by.
 */
#ifndef MODEL_HPP_
#define MODEL_HPP_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace model {

constexpr int LAYERS = 2, HEADS = 4, D_MODEL = 32, D_QK = 160, D_V = 128, VOCABULARY = 61, MOST_TOKENS = 128;

struct weights {
  std::vector<float> tokens, positions; /* (VOCABULARY, D_MODEL), (MOST_TOKENS, D_MODEL) */
  struct layer {
    std::vector<float> q, kv, out; /* (HEADS * D_QK, D_MODEL), (D_QK, D_MODEL), (D_MODEL, HEADS * D_V) */
  } layers[LAYERS];

  weights() {
    std::mt19937 random(1);
    const auto matrix = [&random](int rows, int columns, float scale) {
      std::normal_distribution<float> normal(0.0f, scale);
      std::vector<float> made(static_cast<std::size_t>(rows * columns));
      for (float &value : made) value = normal(random);
      return made;
    };
    tokens = matrix(VOCABULARY, D_MODEL, 1.0f);
    positions = matrix(MOST_TOKENS, D_MODEL, 0.3f);
    for (layer &each : layers) {
      each.q = matrix(HEADS * D_QK, D_MODEL, 0.3f);
      each.kv = matrix(D_QK, D_MODEL, 0.3f);
      each.out = matrix(D_MODEL, HEADS * D_V, 0.1f);
    }
  }
};

/* x (n, columns) times the transpose of a matrix (rows, columns). */
template <class Real>
std::vector<Real> product(const std::vector<Real> &x, const std::vector<float> &matrix, int columns) {
  const std::size_t in = static_cast<std::size_t>(columns), rows = matrix.size() / in, n = x.size() / in;
  std::vector<Real> made(n * rows);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < in; ++c) made[i * rows + r] += x[i * in + c] * static_cast<Real>(matrix[r * in + c]);
  return made;
}

/* Logits (n, VOCABULARY) of n tokens at these positions. attend(layer, q, rows) is given queries (n, HEADS, D_QK) and
 * new rows of the cache (n, D_QK), and returns (n, HEADS, D_V). */
template <class Real, class Attend>
std::vector<Real> logits(const weights &w, const std::vector<int64_t> &tokens, const std::vector<int32_t> &positions,
                         Attend attend) {
  std::vector<Real> x;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    for (int d = 0; d < D_MODEL; ++d)
      x.push_back(static_cast<Real>(w.tokens[static_cast<std::size_t>(tokens[i] * D_MODEL + d)]) +
                  static_cast<Real>(w.positions[static_cast<std::size_t>(positions[i] * D_MODEL + d)]));
  for (int layer = 0; layer < LAYERS; ++layer) {
    const weights::layer &of = w.layers[layer];
    const std::vector<Real> out = product<Real>(
        attend(layer, product<Real>(x, of.q, D_MODEL), product<Real>(x, of.kv, D_MODEL)), of.out, HEADS * D_V);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += out[i];
  }
  return product<Real>(x, w.tokens, D_MODEL);
}

/* The last token's logits in double, all tokens at once and without a cache. */
inline std::vector<double> reference(const weights &w, const std::vector<int64_t> &tokens) {
  std::vector<int32_t> positions;
  for (std::size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<int32_t>(i));
  const auto attend = [](int, const std::vector<double> &q, const std::vector<double> &rows) {
    const std::size_t n = rows.size() / D_QK;
    std::vector<double> out(n * HEADS * D_V);
    for (std::size_t i = 0; i < n * HEADS; ++i) {
      double sum = 0;
      for (std::size_t t = 0; t <= i / HEADS; ++t) {
        double logit = 0;
        for (std::size_t d = 0; d < D_QK; ++d) logit += q[i * D_QK + d] * rows[t * D_QK + d];
        const double weight = std::exp(logit / std::sqrt(static_cast<double>(D_QK)));
        sum += weight;
        for (std::size_t d = 0; d < D_V; ++d) out[i * D_V + d] += weight * rows[t * D_QK + d];
      }
      for (std::size_t d = 0; d < D_V; ++d) out[i * D_V + d] /= sum;
    }
    return out;
  };
  const std::vector<double> all = logits<double>(w, tokens, positions, attend);
  return {all.end() - VOCABULARY, all.end()};
}

}  // namespace model

#endif /* MODEL_HPP_ */
