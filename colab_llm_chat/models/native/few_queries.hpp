// Attention of one query after the other.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "attention.hpp"
#include "vectors.hpp"

namespace {

// Positions whose scores are summed at once.
constexpr int KEYS = 8;

// What a thread keeps of a part: of each query and head its scaled query, and its largest score and sum so far.
struct Kept {
  float *queries, *most, *sum;

  static int64_t size(const Attention& a, const Part& part) {
    return (part.kv_to - part.kv_from) * a.group() * part.queries * (a.dim + 2);
  }
  Kept(const Attention& a, const Part& part, float* at) : queries(at) {
    const int64_t lines = (part.kv_to - part.kv_from) * a.group() * part.queries;
    most = queries + lines * a.dim, sum = most + lines;
  }
};

// scores [P] of positions whose keys lie `apart`.
template <int P>
inline void score(float* scores, const float* q, const float* k, int64_t dim, int64_t apart) {
  Vector sums[P] = {};
  int64_t d = 0;
  for (; d + LANES <= dim; d += LANES) {
    const Vector mine = load(q + d);
    for (int p = 0; p < P; ++p) sums[p] += mine * load(k + p * apart + d);
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) scores[p] = total(sums[p]);
  for (; d < dim; ++d)
    for (int p = 0; p < P; ++p) scores[p] += q[d] * k[p * apart + d];
}

// out [V vectors] = keep * out + shares [count] . values, which lie `apart`.
template <int V>
inline void add_values(float* out, float keep, const float* shares, const float* v, int64_t count, int64_t apart) {
  // Even and odd positions: one sum alone would wait for itself.
  Vector sums[2][V] = {};
  for (int i = 0; i < V; ++i) sums[0][i] = load(out + i * LANES) * keep;
  int64_t p = 0;
  for (; p + 2 <= count; p += 2)
    for (int odd = 0; odd < 2; ++odd)
      for (int i = 0; i < V; ++i) sums[odd][i] += load(v + (p + odd) * apart + i * LANES) * shares[p + odd];
  for (int i = 0; p < count && i < V; ++i) sums[0][i] += load(v + p * apart + i * LANES) * shares[p];
  for (int i = 0; i < V; ++i) sums[0][i] += sums[1][i];
  std::memcpy(out, sums[0], sizeof sums[0]);
}

// A query and `count` positions from `at` on, after those before: shares are corrected once a larger score shows
// (Milakov and Gimelshein 2018, online softmax).
inline void add_positions(const Attention& a, float* out, const float* q, float& most, float& sum, int64_t kv_head,
                          int64_t at, int64_t count) {
  const int64_t next_key = a.kv_heads * a.dim, next_value = a.kv_heads * a.value_dim;
  const float* k = a.keys + at * next_key + kv_head * a.dim;
  const float* v = a.values + at * next_value + kv_head * a.value_dim;
  float scores[BLOCK], top = most, added = 0;
  int64_t p = 0;
  for (; p + KEYS <= count; p += KEYS) score<KEYS>(scores + p, q, k + p * next_key, a.dim, next_key);
  for (; p < count; ++p) score<1>(scores + p, q, k + p * next_key, a.dim, next_key);
  for (p = 0; p < count; ++p) top = scores[p] > top ? scores[p] : top;
  const float keep = exponential(most - top);
#pragma omp simd reduction(+ : added)
  for (p = 0; p < count; ++p) {
    scores[p] = exponential(scores[p] - top);
    added += scores[p];
  }
  most = top;
  sum = sum * keep + added;
  int64_t d = 0;
  for (; d + 4 * LANES <= a.value_dim; d += 4 * LANES) add_values<4>(out + d, keep, scores, v + d, count, next_value);
  for (; d + LANES <= a.value_dim; d += LANES) add_values<1>(out + d, keep, scores, v + d, count, next_value);
  for (; d < a.value_dim; ++d) {
    out[d] *= keep;
    for (p = 0; p < count; ++p) out[d] += scores[p] * v[p * next_value + d];
  }
}

void attend_each(const Attention& a, const Part& part, float* scratch) {
  const Kept kept(a, part, scratch);
  const int64_t group = a.group(), first_head = part.kv_from * group, heads = (part.kv_to - part.kv_from) * group;
  const int64_t lines = part.queries * heads;
  const auto out = [&](int64_t line) {
    return a.out + ((part.token + line / heads) * a.heads + first_head + line % heads) * a.value_dim;
  };
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t head = first_head + line % heads;
    const float* from = a.q + head * a.head_stride + (part.token + line / heads) * a.token_stride;
    for (int64_t d = 0; d < a.dim; ++d) kept.queries[line * a.dim + d] = from[d] * a.scale;
    // A sink takes a share and gives no value.
    kept.most[line] = a.sinks ? a.sinks[head] : NONE;
    kept.sum[line] = a.sinks ? 1.0f : 0.0f;
    std::fill(out(line), out(line) + a.value_dim, 0.0f);
  }
  const int64_t last = part.end + part.queries - 1;
  const int64_t first = a.window ? std::max(part.start, part.end - a.window) : part.start;
  // All of a part's queries go through a block before the next one: it is read from memory once.
  for (int64_t block = first; block < last; block += BLOCK)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t kv_head = part.kv_from + h / group;
      if (h % group == 0) ask_for_block(a, block + BLOCK, last, kv_head);
      for (int64_t j = 0; j < part.queries; ++j) {
        const int64_t end = part.end + j, sees = a.window ? std::max(part.start, end - a.window) : part.start;
        const int64_t from = std::max(block, sees), to = std::min(block + BLOCK, end), line = j * heads + h;
        if (from < to)
          add_positions(a, out(line), kept.queries + line * a.dim, kept.most[line], kept.sum[line], kv_head, from,
                        to - from);
      }
    }
  for (int64_t line = 0; line < lines; ++line) {
    const float all = divisor(kept.most[line], kept.sum[line]);
    for (int64_t d = 0; d < a.value_dim; ++d) out(line)[d] /= all;
  }
}

}  // namespace
