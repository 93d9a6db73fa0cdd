// Attention over an arena of keys and values: what all ways to compute it share.

#pragma once

#include <cstdint>
#include <limits>

namespace {

// Positions whose scores are turned into shares at once.
constexpr int64_t BLOCK = 32;
constexpr int64_t CACHE_LINE = 64;

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

inline void ask_for(const float* from, int64_t count) {
  const char *at = reinterpret_cast<const char*>(from), *end = reinterpret_cast<const char*>(from + count);
  for (; at < end; at += CACHE_LINE) __builtin_prefetch(at, 0, 2);
}

}  // namespace
