// Attention of many queries that see nearly the same: they lie side by side in vectors, so that each key and value is
// read once for all of them, and nothing is ever summed across a vector.
//
// What a query does not see has a share of 0 rather than none: a value there that is not finite spoils it too. All are
// of one sequence, of which nothing is used then.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "attention.hpp"
#include "vectors.hpp"

namespace {

// Queries times the heads that share keys: from so many on they are taken together, and at most so many.
constexpr int64_t FEWEST_LINES = LANES / 2, MOST_LINES = 4 * LANES;

// What one head that has keys keeps of a part; L lines, of which the first ones are in use.
struct Lines {
  float *queries, *out, *most, *sum;

  static int64_t size(const Attention& a, int64_t L) { return (a.dim + a.value_dim + 2) * L; }
  Lines(const Attention& a, float* at, int64_t L)
      : queries(at), out(at + a.dim * L), most(out + a.value_dim * L), sum(most + L) {}
};

// sums [O][N] of `count` inputs.
template <int O, int N>
inline void add_inputs(Vector (&sums)[O][N], const float* turned, const float* w, int64_t count, int64_t next,
                       int64_t apart) {
  for (int64_t i = 0; i < count; ++i) add_input(sums, turned + i * N * LANES, w + i * next, apart);
}

// scores [L] of O positions, whose keys lie `apart`.
template <int O, int N>
inline void score_tile(float* scores, const float* queries, const float* k, int64_t dim, int64_t apart) {
  Vector sums[O][N] = {};
  add_inputs(sums, queries, k, dim, 1, apart);
  std::memcpy(scores, sums, sizeof sums);
}

// out [O][L] = keep [L] * out + scores [count][L] . values, which lie `apart`.
template <int O, int N>
inline void value_tile(float* out, const float* keep, const float* scores, const float* v, int64_t count,
                       int64_t apart) {
  Vector sums[O][N];
  for (int o = 0; o < O; ++o)
    for (int n = 0; n < N; ++n) sums[o][n] = load(out + (o * N + n) * LANES) * load(keep + n * LANES);
  add_inputs(sums, scores, v, count, apart, 1);
  std::memcpy(out, sums, sizeof sums);
}

// Scores of `count` positions become shares of those seen so far; `keep` is what those before keep of theirs.
template <int L>
inline void share(const Lines& lines, float* scores, float* keep, int64_t count) {
  float top[L], added[L] = {};
  std::copy(lines.most, lines.most + L, top);
  for (int64_t p = 0; p < count; ++p)
#pragma omp simd
    for (int l = 0; l < L; ++l) top[l] = scores[p * L + l] > top[l] ? scores[p * L + l] : top[l];
  // A sink of -inf is as large as what is not seen.
#pragma omp simd
  for (int l = 0; l < L; ++l) keep[l] = lines.most[l] == top[l] ? 1.0f : exponential(lines.most[l] - top[l]);
  for (int64_t p = 0; p < count; ++p)
#pragma omp simd
    for (int l = 0; l < L; ++l) {
      const float x = scores[p * L + l], e = exponential(x - top[l]);
      added[l] += scores[p * L + l] = x == -std::numeric_limits<float>::infinity() ? 0.0f : e;
    }
#pragma omp simd
  for (int l = 0; l < L; ++l) {
    lines.most[l] = top[l];
    lines.sum[l] = lines.sum[l] * keep[l] + added[l];
  }
}

template <int N>
void attend_together(const Attention& a, const Part& part, float* scratch) {
  constexpr int L = N * LANES, O = SUMS / N;
  const int64_t group = a.group(), kv = part.kv_to - part.kv_from, used = part.queries * group;
  const int64_t next_key = a.kv_heads * a.dim, next_value = a.kv_heads * a.value_dim;
  float scores[BLOCK * L], keep[L];
  int64_t from[L], to[L];
  for (int64_t l = 0; l < L; ++l) {
    // Lines that are not in use see as much as the first one does.
    to[l] = part.end + (l < used ? l / group : 0);
    from[l] = a.window ? std::max(part.start, to[l] - a.window) : part.start;
  }
  for (int64_t h = 0; h < kv; ++h) {
    const Lines lines(a, scratch + h * Lines::size(a, L), L);
    std::fill(lines.queries, lines.queries + Lines::size(a, L), 0.0f);
    for (int64_t l = 0; l < L; ++l) {
      const int64_t head = (part.kv_from + h) * group + l % group;
      lines.most[l] = a.sinks ? a.sinks[head] : NONE;
      lines.sum[l] = a.sinks ? 1.0f : 0.0f;
      const float* q = a.q + head * a.head_stride + (part.token + l / group) * a.token_stride;
      for (int64_t d = 0; l < used && d < a.dim; ++d) lines.queries[d * L + l] = q[d] * a.scale;
    }
  }
  const int64_t last = to[used - 1];
  for (int64_t block = from[0]; block < last; block += BLOCK) {
    const int64_t count = std::min(BLOCK, last - block);
    const bool all_seen = block + count <= to[0] && block >= from[used - 1];
    for (int64_t h = 0; h < kv; ++h) {
      const Lines lines(a, scratch + h * Lines::size(a, L), L);
      const float* k = a.keys + (block * a.kv_heads + part.kv_from + h) * a.dim;
      const float* v = a.values + (block * a.kv_heads + part.kv_from + h) * a.value_dim;
      ask_for_block(a, block + BLOCK, last, part.kv_from + h);
      int64_t p = 0;
      for (; p + O <= count; p += O) score_tile<O, N>(scores + p * L, lines.queries, k + p * next_key, a.dim, next_key);
      for (; p < count; ++p) score_tile<1, N>(scores + p * L, lines.queries, k + p * next_key, a.dim, next_key);
      for (p = 0; !all_seen && p < count; ++p)
        for (int64_t l = 0; l < L; ++l)
          if (block + p < from[l] || block + p >= to[l]) scores[p * L + l] = -std::numeric_limits<float>::infinity();
      share<L>(lines, scores, keep, count);
      int64_t d = 0;
      for (; d + O <= a.value_dim; d += O) value_tile<O, N>(lines.out + d * L, keep, scores, v + d, count, next_value);
      for (; d < a.value_dim; ++d) value_tile<1, N>(lines.out + d * L, keep, scores, v + d, count, next_value);
    }
  }
  for (int64_t h = 0; h < kv; ++h) {
    const Lines lines(a, scratch + h * Lines::size(a, L), L);
    for (int64_t l = 0; l < used; ++l) {
      const int64_t head = (part.kv_from + h) * group + l % group;
      float* o = a.out + ((part.token + l / group) * a.heads + head) * a.value_dim;
      const float all = divisor(lines.most[l], lines.sum[l]);
      for (int64_t d = 0; d < a.value_dim; ++d) o[d] = lines.out[d * L + l] / all;
    }
  }
}

}  // namespace
