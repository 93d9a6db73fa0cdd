// Attention of single queries over an arena of keys and values.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "threads.hpp"

namespace {

// Positions whose scores are turned into shares at once.
constexpr int64_t BLOCK = 32;
// Positions ahead of the one that is read, whose keys or values are asked of the memory.
constexpr int64_t AHEAD = 8;
constexpr int64_t CACHE_LINE = 64;

// e^x for x <= 0, after Cephes' expf: within 2 units in the last place, and a NaN stays one.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504088896341f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // NaN has no place among integers.
  const int32_t power = n >= -126.0f ? static_cast<int32_t>(n) : -126;
  const int32_t bits = (power + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

struct Attention {
  float* out;
  const float *q, *keys, *values, *sinks;
  int64_t heads, kv_heads, dim, value_dim, head_stride, token_stride, window;
  float scale;
};

// `queries` neighbours among a step's tokens; the first one sees positions [start, end) of the arena, each further one
// one more. Only `kv_from` to `kv_to` of the heads that have keys.
struct Part {
  int64_t token, queries, start, end, kv_from, kv_to;
};

// What a thread needs for any of the parts: made before threads begin, out of which no want of memory could be told.
struct Scratch {
  std::vector<float> scores, most, sum, queries;

  Scratch(const Attention& a, const std::vector<Part>& parts) {
    size_t heads = 0, lines = 0;
    for (const Part& part : parts) {
      const size_t mine = (part.kv_to - part.kv_from) * (a.heads / a.kv_heads);
      heads = std::max(heads, mine);
      lines = std::max(lines, mine * part.queries);
    }
    scores.resize(heads * BLOCK);
    most.resize(lines);
    sum.resize(lines);
    queries.resize(lines * a.dim);
  }
};

inline void ask_for(const float* from, int64_t count) {
  const char *at = reinterpret_cast<const char*>(from), *end = reinterpret_cast<const char*>(from + count);
  for (; at < end; at += CACHE_LINE) __builtin_prefetch(at, 0, 2);
}

// One query of a part and positions [from, to), after those before: shares are corrected once a larger score shows
// (Milakov and Gimelshein 2018, online softmax). DIM: the size of a head where it is known beforehand, else 0.
template <int DIM>
void add_block(const Attention& a, const Part& part, Scratch& s, int64_t query, int64_t from, int64_t to, bool ahead) {
  const int64_t dim = DIM ? DIM : a.dim, value_dim = DIM ? DIM : a.value_dim;
  const int64_t group = a.heads / a.kv_heads, kv = part.kv_to - part.kv_from, heads = kv * group, count = to - from;
  const float* q = s.queries.data() + query * heads * dim;
  float *scores = s.scores.data(), *most = s.most.data() + query * heads, *sum = s.sum.data() + query * heads;
  float* out = a.out + ((part.token + query) * a.heads + part.kv_from * group) * value_dim;
  for (int64_t p = 0; p < count; ++p) {
    const float* k = a.keys + ((from + p) * a.kv_heads + part.kv_from) * dim;
    if (ahead) ask_for(k + AHEAD * a.kv_heads * dim, kv * dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *mine = q + h * dim, *its = k + h / group * dim;
      float score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t d = 0; d < dim; ++d) score += mine[d] * its[d];
      scores[h * BLOCK + p] = score;
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    float *mine = scores + h * BLOCK, *o = out + h * value_dim, top = most[h], added = 0;
    for (int64_t p = 0; p < count; ++p) top = mine[p] > top ? mine[p] : top;
    const float keep = exponential(most[h] - top);
    most[h] = top;
#pragma omp simd reduction(+ : added)
    for (int64_t p = 0; p < count; ++p) {
      mine[p] = exponential(mine[p] - top);
      added += mine[p];
    }
    sum[h] = sum[h] * keep + added;
    if (keep != 1.0f)
      for (int64_t d = 0; d < value_dim; ++d) o[d] *= keep;
  }
  const int64_t next = a.kv_heads * value_dim;
  for (int64_t p = 0; p < count; p += 4) {
    const float* v = a.values + ((from + p) * a.kv_heads + part.kv_from) * value_dim;
    const int64_t together = std::min<int64_t>(4, count - p);
    for (int64_t j = 0; ahead && j < together; ++j) ask_for(v + (AHEAD + j) * next, kv * value_dim);
    for (int64_t h = 0; h < heads; ++h) {
      const float *w = scores + h * BLOCK + p, *its = v + h / group * value_dim;
      float* o = out + h * value_dim;
      if (together == 4) {
        const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
        for (int64_t d = 0; d < value_dim; ++d)
          o[d] += w0 * its[d] + w1 * its[next + d] + w2 * its[2 * next + d] + w3 * its[3 * next + d];
      } else {
        for (int64_t j = 0; j < together; ++j)
          for (int64_t d = 0; d < value_dim; ++d) o[d] += w[j] * its[j * next + d];
      }
    }
  }
}

template <int DIM>
void attend_part(const Attention& a, const Part& part, Scratch& s) {
  const int64_t group = a.heads / a.kv_heads, heads = (part.kv_to - part.kv_from) * group;
  const int64_t first_head = part.kv_from * group, lines = part.queries * heads;
  for (int64_t j = 0; j < part.queries; ++j)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t line = j * heads + h;
      const float* from = a.q + (first_head + h) * a.head_stride + (part.token + j) * a.token_stride;
      for (int64_t d = 0; d < a.dim; ++d) s.queries[line * a.dim + d] = from[d] * a.scale;
      // A sink takes a share and gives no value.
      s.most[line] = a.sinks ? a.sinks[first_head + h] : -std::numeric_limits<float>::max();
      s.sum[line] = a.sinks ? 1.0f : 0.0f;
      float* o = a.out + ((part.token + j) * a.heads + first_head + h) * a.value_dim;
      std::fill(o, o + a.value_dim, 0.0f);
    }
  const int64_t last = part.end + part.queries - 1;
  const int64_t first = a.window ? std::max(part.start, part.end - a.window) : part.start;
  // A row's queries go through a block one after the other: it is read from memory once.
  for (int64_t block = first; block < last; block += BLOCK)
    for (int64_t j = 0; j < part.queries; ++j) {
      const int64_t end = part.end + j, sees = a.window ? std::max(part.start, end - a.window) : part.start;
      const int64_t from = std::max(block, sees), to = std::min(block + BLOCK, end);
      if (from < to) add_block<DIM>(a, part, s, j, from, to, j == 0);
    }
  for (int64_t line = 0; line < lines; ++line) {
    float* o = a.out + ((part.token + line / heads) * a.heads + first_head + line % heads) * a.value_dim;
    // Of scores that are all -inf none has a share.
    const bool none = s.most[line] == -std::numeric_limits<float>::max();
    const float all = none ? std::numeric_limits<float>::quiet_NaN() : s.sum[line];
    for (int64_t d = 0; d < a.value_dim; ++d) o[d] /= all;
  }
}

// Parts of about the same work, a few for each thread: positions are read in whole where there are rows enough.
std::vector<Part> parts_of(const Attention& a, const int64_t* spans, int64_t count) {
  const auto work = [&](const int64_t* span) {
    const int64_t length = span[3] - span[2];
    return span[1] * (a.window ? std::min(length, a.window) : length);
  };
  int64_t all = 0;
  for (int64_t i = 0; i < count; ++i) all += work(spans + 4 * i);
  const int64_t wanted = omp_get_max_threads() == 1 ? 1 : 4 * omp_get_max_threads();
  std::vector<Part> parts;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* span = spans + 4 * i;
    const int64_t pieces = std::clamp<int64_t>((work(span) * wanted + all / 2) / std::max<int64_t>(all, 1), 1, a.kv_heads);
    for (int64_t j = 0; j < pieces; ++j)
      parts.push_back({span[0], span[1], span[2], span[3], a.kv_heads * j / pieces, a.kv_heads * (j + 1) / pieces});
  }
  // The longest first: begun last, one thread would go through it alone.
  std::stable_sort(parts.begin(), parts.end(), [](const Part& one, const Part& other) {
    const auto size = [](const Part& p) { return (p.end - p.start) * p.queries * (p.kv_to - p.kv_from); };
    return size(one) > size(other);
  });
  return parts;
}

void attend_spans(const Attention& a, const int64_t* spans, int64_t count) {
  const std::vector<Part> parts = parts_of(a, spans, count);
  const int64_t known = a.dim == a.value_dim ? a.dim : 0, all = static_cast<int64_t>(parts.size());
  const auto one = known == 64 ? attend_part<64> : known == 128 ? attend_part<128> : attend_part<0>;
  std::vector<Scratch> scratch(all > 1 ? omp_get_max_threads() : 1, Scratch(a, parts));
#pragma omp parallel for schedule(dynamic, 1) if (all > 1)
  for (int64_t i = 0; i < all; ++i) one(a, parts[i], scratch[omp_get_thread_num()]);
}

}  // namespace
