// Attention over an arena of keys and values: what all ways to compute it share.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace {

// Positions whose scores are turned into shares at once.
constexpr int64_t BLOCK = 32;
constexpr int64_t CACHE_LINE = 64 / sizeof(float);

// Before any score was seen.
constexpr float NONE = -std::numeric_limits<float>::max();

struct Attention {
  float* out;
  const float *q, *keys, *values, *sinks;
  int64_t heads, kv_heads, dim, value_dim, head_stride, token_stride, window;
  float scale;

  int64_t group() const { return heads / kv_heads; }
};

// `queries` neighbours among a step's tokens; the first one sees positions [start, end) of the arena, each further one
// one more. Only `kv_from` to `kv_to` of the heads that have keys.
struct Part {
  int64_t token, queries, start, end, kv_from, kv_to;
};

// What a query's sums are divided by: of scores that are all -inf none has a share.
inline float divisor(float most, float sum) { return most == NONE ? std::numeric_limits<float>::quiet_NaN() : sum; }

// Ask the memory for the keys and values of a block of positions, as far as they are needed.
inline void ask_for_block(const Attention& a, int64_t block, int64_t last, int64_t kv_head) {
  const int64_t count = std::min(BLOCK, last - block);
  const auto ask = [&](const float* at, int64_t dim) {
    at += (block * a.kv_heads + kv_head) * dim;
    for (int64_t p = 0; p < count; ++p, at += a.kv_heads * dim)
      for (int64_t d = 0; d < dim; d += CACHE_LINE) __builtin_prefetch(at + d, 0, 2);
  };
  ask(a.keys, a.dim);
  ask(a.values, a.value_dim);
}

}  // namespace
